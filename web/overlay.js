// Draws boxes and masks over an image.

import { colorStyle, rgb } from './colors.js';
import { h } from './dom.js';

/** Longest side of a drawn mask in pixels. Larger ones are sampled: the screen shows no more. */
const MAX_SIDE = 1400;
/** Color of the pixels in which two masks differ. */
const MARK = [255, 0, 200];

/**
 * Fills `layer` with the boxes of `detections`, in pixels of an image of the size of `result`. `only` has the detections
 * that the other model does not have; they are dashed.
 */
export function drawBoxes(layer, result, detections, { opacity = 1, only = new Set() } = {}) {
  const across = (x) => `${(100 * x) / result.width}%`;
  const down = (y) => `${(100 * y) / result.height}%`;
  const area = ({ box }) => (box.x2 - box.x1) * (box.y2 - box.y1);
  const boxes = [...detections].sort((a, b) => area(b) - area(a)).map((detection) => {
    const { box, class_id: id } = detection;
    const style = {
      ...colorStyle(id), left: across(box.x1), top: down(box.y1), width: across(box.x2 - box.x1),
      height: down(box.y2 - box.y1), opacity,
    };
    return h('div', { className: only.has(detection) ? 'box only' : 'box', style, dataset: { class: id } });
  });
  layer.replaceChildren(...boxes);
  const size = { width: layer.clientWidth, height: layer.clientHeight };
  const placed = [];
  for (const detection of detections) {
    const tag = tagOf(detection, only.has(detection));
    layer.append(tag);
    place(tag, detection.box, result, size, placed);
  }
}

function tagOf(detection, only) {
  const text = `${detection.label} ${detection.score.toFixed(2)}${only ? ' · only here' : ''}`;
  return h('span', { className: 'tag', style: colorStyle(detection.class_id), dataset: { class: detection.class_id } }, text);
}

/** Moves a label to the first place at its box where it covers no other label; without one, to the first place. */
function place(tag, box, result, size, placed) {
  const [x1, x2] = [box.x1, box.x2].map((x) => (x * size.width) / result.width);
  const [y1, y2] = [box.y1, box.y2].map((y) => (y * size.height) / result.height);
  const [width, height] = [tag.offsetWidth, tag.offsetHeight];
  const inside = (value, limit) => Math.max(0, Math.min(value, limit));
  const places = [
    [x1, y1 - height], [x1, y1], [x2 - width, y1 - height], [x1, y2], [x2 - width, y2], [x1, y2 - height], [x1, y1 + height],
    [x2, y1], [x2, y2 - height], [x1, y1 + 2 * height],
  ].map(([x, y]) => ({ x: inside(x, size.width - width), y: inside(y, size.height - height), width, height }));
  const free = (a) => placed.every((b) => a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y);
  const chosen = places.find(free) ?? places[0];
  placed.push(chosen);
  tag.style.left = `${chosen.x}px`;
  tag.style.top = `${chosen.y}px`;
}

/** Emphasizes the boxes of a class, or of all classes if it is null. */
export function focusClass(layer, id) {
  layer.classList.toggle('focused', id !== null);
  for (const element of layer.children) element.classList.toggle('active', element.dataset.class === String(id));
}

/**
 * Draws a class map with outlines into `canvas`. Classes in `hidden` and the background are left out; `marked`, a class map
 * of the same size, marks the pixels in which both differ.
 */
export function drawMask(canvas, map, { hidden, opacity, marked = null }) {
  const step = Math.max(1, Math.max(map.width, map.height) / MAX_SIDE);
  const width = (canvas.width = Math.max(1, Math.floor(map.width / step)));
  const height = (canvas.height = Math.max(1, Math.floor(map.height / step)));
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  const source = (x, y) => Math.min(map.height - 1, Math.floor(y * step)) * map.width + Math.min(map.width - 1, Math.floor(x * step));
  const classAt = (x, y) => map.classes[source(x, y)];
  const alpha = Math.round(opacity * 255);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = source(x, y);
      const id = map.classes[at];
      const target = 4 * (y * width + x);
      if (marked && marked.classes[at] !== id) image.data.set([...MARK, 235], target);
      else if (id !== 0 && !hidden.has(id)) {
        const edge = x > 0 && y > 0 && (classAt(x - 1, y) !== id || classAt(x, y - 1) !== id
          || classAt(Math.min(x + 1, width - 1), y) !== id || classAt(x, Math.min(y + 1, height - 1)) !== id);
        image.data.set(edge ? [...rgb(id), 255] : [...rgb(id), alpha], target);
      }
    }
  }
  context.putImageData(image, 0, 0);
}
