// Shows the result of one model: labels as bars, classes of boxes and masks, nearest images.

import { colorStyle } from './colors.js';
import { fixed, h, percent } from './dom.js';

/** A bar of the length `share` (0 to 1). */
export const bar = (share, second = false) => h('span', { className: second ? 'bar second' : 'bar' },
  h('i', { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } }));

/** The first `limit` labels of a classification. Scores above 1, of models without softmax, are scaled for the bars. */
export function labelBars(result, limit) {
  const shown = result.predictions.slice(0, limit);
  const most = Math.max(1, ...shown.map(({ score }) => score));
  return h('ol', { className: 'rows' }, shown.map(({ label, score }, index) => h('li', { className: index ? 'row' : 'row first' },
    h('span', { className: 'name' }, label), h('span', { className: 'value number' }, percent(score)), bar(score / most))));
}

/**
 * The classes of a result with a switch for each. `classes` is a list of `{ id, label, text }`; `toggle` is called with an
 * id when its switch changes, `focus` with an id or null when the pointer or the keyboard focus is on a class.
 */
export function classList(classes, hidden, toggle, focus) {
  return h('ul', { className: 'rows' }, classes.map(({ id, label, text }) => {
    const input = h('input', { type: 'checkbox', id: `class-${id}`, checked: !hidden.has(id), onchange: () => toggle(id) });
    return h('li', {
      className: 'class', onpointerenter: () => focus(id), onpointerleave: () => focus(null), onfocusin: () => focus(id),
      onfocusout: () => focus(null),
    }, input, h('span', { className: 'swatch', style: colorStyle(id) }), h('label', { htmlFor: `class-${id}` }, label),
    h('span', { className: 'value number' }, text));
  }));
}

/** Returns the classes of detections with a score of at least `threshold`, most confident first. */
export function detectedClasses(result, threshold) {
  const classes = new Map();
  for (const { class_id: id, label, score } of result.detections) {
    if (score < threshold) continue;
    const entry = classes.get(id) ?? { id, label, scores: [] };
    entry.scores.push(score);
    classes.set(id, entry);
  }
  return [...classes.values()].map(({ id, label, scores }) => {
    const shown = scores.slice(0, 3).map((score) => fixed(score, 2)).join(', ');
    const text = `${scores.length > 3 ? `${shown}, …` : shown}`;
    return { id, label: scores.length > 1 ? `${label} × ${scores.length}` : label, text };
  });
}

/** Returns the classes of a segmentation without the background, largest first. */
export function segmentedClasses(result) {
  const classes = result.classes.filter(({ class_id: id }) => id !== 0);
  classes.sort((a, b) => b.pixels - a.pixels);
  return classes.map(({ class_id: id, label, fraction }) => ({ id, label, text: percent(fraction) }));
}

/** Returns the cosine similarity of two embeddings of unit length. */
export const similarity = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

/** The images by the similarity of their embeddings: `neighbors` is a list of `{ item, similarity }`. */
export function neighborList(neighbors) {
  return h('ol', { className: 'rows' }, neighbors.map(({ item, similarity: value }) => h('li', { className: 'near' },
    h('img', { src: item.url, alt: '' }), h('span', { className: 'name' }, item.name),
    h('span', { className: 'value number' }, fixed(value, 3)), bar(value))));
}

/** The most important part of a result as a short text, for the gallery and for screen readers. */
export function headline(task, result, threshold) {
  if (task === 'classify') {
    const [first] = result.predictions;
    return first ? `${first.label}, ${percent(first.score, 0)}` : 'no label';
  }
  if (task === 'detect') return named(detectedClasses(result, threshold), 'nothing above the threshold');
  if (task === 'segment') return named(segmentedClasses(result), 'background only');
  return `${result.dimensions} features`;
}

const named = (classes, none) => classes.map(({ label }) => label).join(', ') || none;
