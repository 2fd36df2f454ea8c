// Line charts of the last minutes.

import { h, svg } from './dom.js';

const [WIDTH, HEIGHT] = [400, 150];

/**
 * A chart with a line for each of `lines`: `{ name, color, points }`, where points are `{ at, value }` and null is a gap.
 * `format` formats values; the time axis ends at `now` and covers `span` milliseconds.
 */
export function chart(title, lines, { now, span, format }) {
  const values = lines.flatMap(({ points }) => points.map(({ value }) => value)).filter((value) => value !== null);
  const top = niceTop(Math.max(0, ...values));
  const x = (at) => WIDTH * (1 - (now - at) / span);
  const y = (value) => HEIGHT * (1 - value / top);
  const path = (points) => {
    let pen = 'M';
    return points.filter(({ at }) => at >= now - span).map(({ at, value }) => {
      if (value === null) { pen = 'M'; return ''; }
      const step = `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
      return step;
    }).join('');
  };
  const grid = [0, 0.5, 1].map((share) => svg('line', { class: 'grid', x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share }));
  const drawn = lines.map(({ color, points }) => {
    const line = svg('path', { d: path(points) });
    line.style.setProperty('--color', color);
    return line;
  });
  const latest = (points) => points.at(-1)?.value ?? null;
  const text = lines.map(({ name, points }) => `${name}: ${latest(points) === null ? 'none' : format(latest(points))}`).join(', ');
  return h('figure', { className: 'card chart' }, h('h2', {}, title),
    h('div', { className: 'plot' },
      svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title}. ${text}` }, ...grid, ...drawn),
      h('span', { className: 'axis high number' }, values.length > 0 ? format(top) : ''), h('span', { className: 'axis low number' }, '0'),
      values.length === 0 && h('div', { className: 'none muted' }, h('span', {}, 'No requests with images in this time'))),
    h('div', { className: 'times muted', attrs: { 'aria-hidden': 'true' } }, h('span', {}, ago(span)), h('span', {}, 'now')),
    h('ul', { className: 'legend' }, lines.map(({ name, color, points }) => h('li', {}, h('i', { style: { '--color': color } }), name,
      h('span', { className: 'muted number' }, latest(points) === null ? '–' : format(latest(points)))))));
}

const ago = (span) => (span < 90_000 ? `${Math.round(span / 1000)} s ago` : `${Math.round(span / 60_000)} min ago`);

/** Returns the smallest of 1, 2, 5 times a power of ten that is not below `value`. */
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((top) => top >= value);
}
