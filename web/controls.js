// The controls of a result, all of which work without a new request.

import { byId, fixed, h, percent } from './dom.js';

const slider = (id, label, { min, max, step, value, text }, change) => {
  const output = h('output', { className: 'number', htmlFor: id }, text(value));
  const input = h('input', { type: 'range', id, min, max, step, value, oninput: () => {
    output.textContent = text(Number(input.value));
    change(Number(input.value));
  } });
  return h('div', { className: 'control' }, h('label', { htmlFor: id }, label), input, output);
};

/** Fills `element` with the controls of the current task. Keeps those that are there, so that a slider can be dragged. */
export function showControls(element, state, runs, changed) {
  const compared = runs.length === 2;
  const kind = runs.some((run) => run.state === 'done') ? `${state.task} ${compared}` : '';
  if (element.dataset.kind === kind) return;
  const focused = document.activeElement?.id;
  element.dataset.kind = kind;
  element.replaceChildren(...(kind ? controlsOf(state, compared, changed) : []));
  if (focused && element.contains(byId(focused))) byId(focused).focus();
}

function controlsOf(state, compared, changed) {
  const set = (name) => (value) => { state[name] = value; changed(); };
  const opacity = () => slider('opacity', 'Opacity', { min: 0.1, max: 1, step: 0.05, value: state.opacity, text: (value) => percent(value, 0) }, set('opacity'));
  switch (state.task) {
    case 'classify':
      return [slider('labels', 'Labels', { min: 1, max: 20, step: 1, value: state.labels, text: String }, set('labels'))];
    case 'detect':
      return [slider('threshold', 'Threshold', { min: 0.05, max: 0.99, step: 0.01, value: state.threshold, text: (value) => fixed(value, 2) }, set('threshold')), opacity()];
    case 'segment':
      return [opacity(), compared && h('label', { className: 'check' },
        h('input', { type: 'checkbox', id: 'marked', checked: state.marked, onchange: (event) => set('marked')(event.target.checked) }), 'Mark pixels that differ')].filter(Boolean);
    default:
      return [];
  }
}
