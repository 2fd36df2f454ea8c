// Shows the times of the stages, from the header `Server-Timing`.

import { h, ms } from './dom.js';

const COLORS = {
  admission: 'light-dark(#7d8790, #8c969f)', decode: 'light-dark(#3f6fb5, #7fb0f5)', preprocess: 'light-dark(#7a5bb0, #b79cf0)',
  queue: 'light-dark(#b4690e, #f0b35c)', inference: 'light-dark(#0b6e5f, #4fd0b4)', postprocess: 'light-dark(#a8457b, #f093c2)',
  encode: 'light-dark(#6d7d2b, #bccb6a)', 'other work': 'light-dark(#a9b0b6, #5d666d)', 'network and browser': 'light-dark(#cfd3d6, #3e464c)',
};

/** Returns the stages of a run, with the rest of the server's time and of the round trip. */
export function stagesOf({ timing, roundTrip }) {
  const known = timing.stages.reduce((sum, { ms: time }) => sum + time, 0);
  const rest = [
    { stage: 'other work', ms: Math.max(0, timing.total - known) },
    { stage: 'network and browser', ms: Math.max(0, roundTrip - timing.total) },
  ];
  return [...timing.stages, ...rest];
}

/** A bar with the stages of one run, and their times. */
export function timeBar(name, run) {
  const stages = stagesOf(run);
  const sum = stages.reduce((total, { ms: time }) => total + time, 0) || 1;
  const color = (stage) => ({ '--color': COLORS[stage] });
  return h('div', { className: 'timed' },
    h('h3', {}, h('span', {}, name), h('span', { className: 'number' }, ms(run.timing.total))),
    h('div', { className: 'stack', attrs: { 'aria-hidden': 'true' } }, stages.map(({ stage, ms: time }) => h('i', { style: { ...color(stage), width: `${(100 * time) / sum}%` } }))),
    h('ul', { className: 'stages' }, stages.map(({ stage, ms: time }) => h('li', { dataset: { stage } },
      h('span', { className: 'swatch', style: color(stage) }), h('span', {}, stage), h('span', { className: 'number' }, ms(time))))));
}

/** A sentence that compares the inference times of two runs. */
export function speedDifference([a, b], names) {
  const inference = ({ timing }) => timing.stages.find(({ stage }) => stage === 'inference')?.ms;
  const [x, y] = [inference(a), inference(b)];
  if (!x || !y) return null;
  const [fast, slow, ratio] = x <= y ? [names[0], names[1], y / x] : [names[1], names[0], x / y];
  return h('p', { className: 'muted small' }, `Inference of ${fast} was ${ratio.toFixed(1)} times as fast as that of ${slow}. Admission includes the load of a model.`);
}
