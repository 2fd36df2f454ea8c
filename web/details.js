// The list of results beside the image: of one model, or the differences of two.

import { compareBoxes, compareLabels, compareMasks, pairBoxes } from './compare.js';
import { h } from './dom.js';
import { classList, detectedClasses, labelBars, neighborList, segmentedClasses, similarity } from './results.js';
import { startedRun } from './runner.js';
import { shownBoxes } from './stage.js';

/** Fills `element` with the details of finished runs. */
export function showDetails(element, state, runs, names, { show, pane }) {
  const results = runs.map((run) => run.result);
  const compared = results.length === 2;
  const parts = {
    classify: () => (compared ? compareLabels(results, names, state.labels) : [labelBars(results[0], state.labels)]),
    detect: () => detection(state, runs, names, show, pane),
    segment: () => segmentation(state, results, names, show, pane),
    embed: () => embedding(state, names),
  }[state.task]();
  element.replaceChildren(...parts);
}

const toggled = (state, show) => (id) => {
  if (!state.hidden.delete(id)) state.hidden.add(id);
  show();
};

function detection(state, runs, names, show, pane) {
  const classes = new Map(runs.flatMap((run) => detectedClasses(run.result, state.threshold)).map((entry) => [entry.id, entry]));
  if (classes.size === 0) return [h('p', { className: 'muted' }, 'Nothing has a score above the threshold. Lower it to see less certain boxes.')];
  const list = classList([...classes.values()], state.hidden, toggled(state, show), pane.focus);
  if (runs.length === 1) return [list];
  return [...compareBoxes(pairBoxes(...runs.map((run) => shownBoxes(run, state))), names), h('h3', { className: 'label' }, 'Classes'), list];
}

function segmentation(state, results, names, show, pane) {
  const classes = new Map(results.flatMap(segmentedClasses).map((entry) => [entry.id, entry]));
  const list = classes.size > 0
    ? classList([...classes.values()], state.hidden, toggled(state, show), pane.focus)
    : h('p', { className: 'muted' }, 'Every pixel is background.');
  return results.length === 1 ? [list] : [...compareMasks(results, names), h('h3', { className: 'label' }, 'Classes'), list];
}

/** The images in the order of their similarity to the current one, for each model. */
function embedding(state, names) {
  return [state.model, state.other].filter(Boolean).flatMap((id, index) => {
    const vector = (item) => startedRun(item, 'embed', id)?.result?.embedding;
    const own = vector(state.current);
    if (!own) return [];
    const others = state.items.filter((item) => item !== state.current && vector(item));
    const neighbors = others.map((item) => ({ item, similarity: similarity(own, vector(item)) }));
    neighbors.sort((a, b) => b.similarity - a.similarity);
    const length = own.length;
    const about = `${length} features. The images nearest to this one by cosine similarity:`;
    return [h('p', { className: 'muted small' }, state.other ? `${names[index]}: ${about}` : about), neighborList(neighbors.slice(0, 8))];
  });
}
