// The image with its overlay: one pane for each compared model.

import { pairBoxes } from './compare.js';
import { h, ms } from './dom.js';
import { drawBoxes, drawMask, focusClass } from './overlay.js';
import { headline } from './results.js';

/** Returns functions that reach the drawn panes. */
export const paneOf = (panes) => ({
  focus: (id) => { for (const layer of panes.querySelectorAll('.boxes')) focusClass(layer, id); },
});

/** Fills `panes` with the current image, once for each run, and the overlays of the runs. */
export function showPanes(panes, state, runs, names) {
  const count = Math.max(1, runs.length);
  const source = state.video ?? state.current;
  if (panes.source !== source || panes.children.length !== count) {
    panes.source = source;
    panes.replaceChildren(...Array.from({ length: count }, () => newPane(source, state)));
  }
  const visible = runs.map((run) => (run.state === 'done' && run.result.detections ? shownBoxes(run, state) : []));
  const pairs = runs.length === 2 && state.task === 'detect' ? pairBoxes(...visible) : null;
  runs.forEach((run, index) => {
    const pane = panes.children[index];
    caption(pane, runs.length > 1 ? names[index] : null, run, state.threshold);
    pane.querySelector('.busy').hidden = run.state !== 'pending';
    overlay(pane, state, runs, index, visible[index], pairs && [pairs.onlyA, pairs.onlyB][index]);
  });
}

/** Returns the detections that the threshold and the filter of classes let through. */
export const shownBoxes = (run, { threshold, hidden }) => run.result.detections.filter(({ class_id: id, score }) => score >= threshold && !hidden.has(id));

function newPane(source, state) {
  const frame = h('div', { className: 'frame' });
  const pane = h('figure', { className: 'pane' }, frame, h('figcaption', {}));
  const fit = (width, height) => pane.style.setProperty('--ratio', width / height);
  if (source instanceof HTMLVideoElement) {
    fit(source.videoWidth, source.videoHeight);
    frame.append(source);
  } else {
    const image = h('img', { alt: source.name, onload: () => fit(image.naturalWidth, image.naturalHeight), onerror: () => {
      image.replaceWith(h('span', { className: 'broken' }, `The browser cannot show ${source.name}.`));
    } });
    image.src = source.url;
    frame.append(image);
  }
  frame.append(h('canvas', { attrs: { 'aria-hidden': 'true' } }), h('div', { className: 'boxes', attrs: { 'aria-hidden': 'true' } }), h('div', { className: 'busy', hidden: true }));
  return pane;
}

/** Shows the most important part of the result below the image, with its time and, of compared models, the name. */
function caption(pane, name, run, threshold) {
  const time = run.state === 'done' ? ms(run.timing.total) : run.state === 'failed' ? 'failed' : '…';
  const text = run.state === 'done' ? headline(run.task, run.result, threshold) : '';
  const parts = name ? [h('b', {}, name), h('span', { className: 'answer' }, text)] : [h('b', { className: 'answer' }, text)];
  pane.querySelector('figcaption').replaceChildren(...parts, h('span', { className: 'muted number' }, time));
}

function overlay(pane, state, runs, index, boxes, only) {
  const run = runs[index];
  const canvas = pane.querySelector('canvas');
  const layer = pane.querySelector('.boxes');
  const { result } = run;
  canvas.hidden = !(run.state === 'done' && result.map);
  if (!canvas.hidden) {
    const other = runs.length === 2 && runs[1 - index].result?.map;
    const marked = other && state.marked && index === 1 && other.classes.length === result.map.classes.length ? other : null;
    drawMask(canvas, result.map, { hidden: state.hidden, opacity: state.opacity, marked });
  }
  if (run.state === 'done' && result.detections) drawBoxes(layer, result, boxes, { opacity: state.opacity < 0.55 ? state.opacity / 0.55 : 1, only: only ?? new Set() });
  else layer.replaceChildren();
}
