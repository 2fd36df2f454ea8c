// Compares the results of two models for one image.

import { fixed, h, percent } from './dom.js';

/** Least overlap (IoU) of two boxes that are taken for the same object. */
const SAME_OBJECT = 0.5;

const table = (names, head, rows) => h('table', { className: 'differences' },
  h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, head), ...names.map((name) => h('th', { scope: 'col' }, name)))),
  h('tbody', {}, rows.map(({ cells, differs }) => h('tr', { className: differs ? 'differs' : '' }, cells.map((cell) => h('td', { className: 'number' }, cell))))));

const summary = (text) => h('p', { className: 'summary', id: 'difference' }, text);

/** Compares the labels of two classifications: their scores, and which ones are among the first of one model only. */
export function compareLabels([a, b], names, limit) {
  const scores = (result) => new Map(result.predictions.map(({ label, score }) => [label, score]));
  const [inA, inB] = [scores(a), scores(b)];
  const first = (result) => result.predictions.slice(0, limit).map(({ label }) => label);
  const [firstA, firstB] = [first(a), first(b)];
  const labels = [...new Set([...firstA, ...firstB])];
  const rows = labels.map((label) => {
    const [x, y] = [inA.get(label), inB.get(label)];
    const change = x !== undefined && y !== undefined ? (y - x) * 100 : null;
    const text = change === null ? '–' : `${change >= 0 ? '+' : '−'}${fixed(Math.abs(change), 1)}`;
    const cell = (value) => (value === undefined ? '–' : percent(value));
    return { cells: [label, cell(x), cell(y), text], change, differs: firstA.indexOf(label) !== firstB.indexOf(label) };
  });
  const largest = Math.max(0, ...rows.map(({ change }) => Math.abs(change ?? 0)));
  const same = firstA[0] === firstB[0];
  const text = same ? `Both say ${firstA[0]}.` : `They disagree: ${firstA[0]} or ${firstB[0]}.`;
  return [summary(`${text} Scores differ by at most ${fixed(largest, 1)} points; ≠ marks another rank.`), table([...names, 'change'], 'Label', rows)];
}

function overlap(a, b) {
  const across = Math.min(a.x2, b.x2) - Math.max(a.x1, b.x1);
  const down = Math.min(a.y2, b.y2) - Math.max(a.y1, b.y1);
  if (across <= 0 || down <= 0) return 0;
  const area = (box) => (box.x2 - box.x1) * (box.y2 - box.y1);
  return (across * down) / (area(a) + area(b) - across * down);
}

/**
 * Pairs the boxes of two lists of detections, the most confident first. Returns the pairs and the detections that have
 * none in the other list.
 */
export function pairBoxes(a, b) {
  const free = new Set(b);
  const pairs = [];
  const onlyA = new Set();
  for (const detection of a) {
    let best = null;
    for (const candidate of free) {
      const iou = candidate.class_id === detection.class_id ? overlap(detection.box, candidate.box) : 0;
      if (iou >= SAME_OBJECT && iou > (best?.iou ?? 0)) best = { candidate, iou };
    }
    if (best) {
      free.delete(best.candidate);
      pairs.push([detection, best.candidate, best.iou]);
    } else onlyA.add(detection);
  }
  return { pairs, onlyA, onlyB: free };
}

/** Compares the boxes of two detectors, as `pairBoxes` has paired them. */
export function compareBoxes({ pairs, onlyA, onlyB }, names) {
  const rows = [
    ...pairs.map(([a, b, iou]) => ({ cells: [a.label, fixed(a.score, 2), fixed(b.score, 2), fixed(iou, 2)], differs: false })),
    ...[...onlyA].map((a) => ({ cells: [a.label, fixed(a.score, 2), '–', '–'], differs: true })),
    ...[...onlyB].map((b) => ({ cells: [b.label, '–', fixed(b.score, 2), '–'], differs: true })),
  ];
  const alone = onlyA.size + onlyB.size;
  const text = alone === 0
    ? `Both find the same ${pairs.length} objects.`
    : `${pairs.length} objects in common, ${onlyA.size} only in the first, ${onlyB.size} only in the second (dashed).`;
  return [summary(text), table([...names, 'IoU'], 'Object', rows)];
}

/** Compares two masks: the share of pixels in which they differ, and the share of each class. */
export function compareMasks([a, b], names) {
  if (a.map.classes.length !== b.map.classes.length) return [summary('The masks have different sizes.')];
  let differing = 0;
  for (let i = 0; i < a.map.classes.length; i += 1) if (a.map.classes[i] !== b.map.classes[i]) differing += 1;
  const shares = (result) => new Map(result.classes.map(({ label, fraction }) => [label, fraction]));
  const [inA, inB] = [shares(a), shares(b)];
  const labels = [...new Set([...inA.keys(), ...inB.keys()])];
  const rows = labels.map((label) => {
    const [x, y] = [inA.get(label) ?? 0, inB.get(label) ?? 0];
    return { cells: [label, percent(x), percent(y)], differs: Math.abs(x - y) >= 0.0005 };
  });
  const share = differing / a.map.classes.length;
  return [summary(`The masks differ in ${percent(share, 2)} of the pixels.`), table(names, 'Class', rows)];
}
