// Creates and fills elements. Text is always set as text, never parsed as HTML.

/**
 * Creates an element. `props` are properties of the element; `dataset`, `style` and `attrs` (attributes) are objects,
 * and names that begin with `on` add listeners. Children that are null or false are left out.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'dataset') Object.assign(element.dataset, value);
    else if (name === 'style') for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name === 'attrs') for (const [key, v] of Object.entries(value)) element.setAttribute(key, v);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Creates `details` whose content is built when it is opened for the first time. */
export function lazy(props, summary, build) {
  const details = h('details', props, summary);
  details.addEventListener('toggle', () => details.append(...[build()].flat().filter(Boolean)), { once: true });
  return details;
}

const SVG = 'http://www.w3.org/2000/svg';

/** Creates an SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

export const fixed = (value, digits) => Number(value).toFixed(digits);
export const percent = (value, digits = 1) => `${fixed(value * 100, digits)} %`;

/** Formats milliseconds with three significant digits at most, from one second on as seconds. */
export function ms(value) {
  if (value >= 1000) return `${fixed(value / 1000, 2)} s`;
  return `${fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

/** Formats bytes with a binary unit. */
export function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${fixed(value, unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** Formats a count with a thousands or millions unit, such as 4.65 M. */
export function count(value) {
  if (value >= 1e6) return `${fixed(value / 1e6, 2)} M`;
  return value >= 1e3 ? `${fixed(value / 1e3, 1)} k` : String(value);
}

/** Copies text, also on pages without TLS, where the clipboard API is missing. */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not permitted: try the older way.
    }
  }
  const area = h('textarea', { value: text });
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  return copied;
}

/** Reads an item of `sessionStorage` or `localStorage`; null if storage is off. */
export function stored(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Writes an item, or removes it if `value` is empty. */
export function store(storage, key, value) {
  try {
    if (value) window[storage].setItem(key, value);
    else window[storage].removeItem(key);
  } catch {
    // Storage is off: the value lasts as long as the page.
  }
}
