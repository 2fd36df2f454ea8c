// The images: samples of the server and those of the user.

import { h } from './dom.js';
import { headline } from './results.js';
import { startedRun } from './runner.js';

/** Images of the user at most. */
const MAX_IMAGES = 64;
const SAMPLES = [['cat', 'Cat'], ['coffee', 'Coffee'], ['astronaut', 'Astronaut'], ['rocket', 'Rocket']];

/** Returns the sample photographs. An item is `{ name, url, own, runs, blob() }`. */
export const samples = () => SAMPLES.map(([file, name]) => {
  const url = `/samples/${file}.jpg`;
  const blob = async () => (await fetch(url)).blob();
  return { name, url, own: false, runs: new Map(), blob };
});

/** Returns an item for a file of the user. */
export function fromFile(file, name = file.name) {
  return { name: name || 'Pasted image', url: URL.createObjectURL(file), own: true, runs: new Map(), blob: async () => file };
}

/** Appends files to `items`, and returns how many did not fit. */
export function addFiles(items, files) {
  const room = MAX_IMAGES - items.filter(({ own }) => own).length;
  items.push(...files.slice(0, room).map((file) => fromFile(file)));
  return Math.max(0, files.length - room);
}

/** Fills `list` with the items. `pick` and `remove` are called with an item. */
export function showGallery(list, { items, current, task, model, threshold }, pick, remove) {
  const focused = [...list.querySelectorAll('.pick')].indexOf(document.activeElement);
  list.replaceChildren(...items.map((item) => {
    const run = startedRun(item, task, model);
    const text = { pending: 'running …', failed: run?.failure?.problem?.code ?? 'failed', done: run?.result && headline(task, run.result, threshold) };
    const state = run ? text[run.state] : 'not run';
    const image = h('img', { src: item.url, alt: '', loading: 'lazy', onerror: () => image.remove() });
    const button = h('button', { type: 'button', className: 'pick', attrs: item === current ? { 'aria-current': 'true' } : {}, onclick: () => pick(item) },
      h('span', { className: 'thumb' }, image),
      h('span', { className: 'caption' }, h('span', {}, item.name), h('span', { className: run?.state === 'failed' ? 'bad' : 'muted' }, state)));
    const away = item.own && h('button', { type: 'button', className: 'remove', attrs: { 'aria-label': `Remove ${item.name}` }, onclick: () => remove(item) }, '×');
    return h('li', {}, button, away);
  }));
  if (focused >= 0) list.querySelectorAll('.pick')[focused]?.focus();
}
