// Renders JSON schemas of the document as lists of fields.

import { h, lazy } from './dom.js';
import { markdown } from './markdown.js';

/** Depth at which nested schemas are not shown any more: some contain themselves. */
const MAX_DEPTH = 6;

let root = {};
/** Sets the document to which references point. */
export const setDocument = (document) => { root = document; };

/** Returns the part of the document that `value` refers to, or `value` if it is not a reference. */
export function resolve(value) {
  if (!value?.$ref) return value ?? {};
  const target = value.$ref.slice(2).split('/').reduce((part, key) => part?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], root);
  return resolve(target);
}

const nameOf = (schema) => schema?.$ref?.split('/').pop();

/** Returns the type of a schema as a short text, such as `array of Detection`. */
export function typeOf(schema) {
  const value = resolve(schema);
  if (value.const !== undefined) return JSON.stringify(value.const);
  if (value.enum) return value.enum.length > 8 ? `one of ${value.enum.length} values` : value.enum.map((item) => JSON.stringify(item)).join(' | ');
  if (value.oneOf || value.anyOf) return (value.oneOf ?? value.anyOf).map(typeOf).join(' or ');
  const type = [value.type ?? 'any'].flat().join(' or ');
  if (value.items) return `${type} of ${nameOf(value.items) ?? typeOf(value.items)}`;
  const name = value.type === 'object' && nameOf(schema);
  return [name || type, value.format].filter(Boolean).join(', ');
}

function limits(value) {
  const bounds = [];
  if (value.minimum !== undefined || value.maximum !== undefined) bounds.push(`${value.minimum ?? '−∞'} to ${value.maximum ?? '∞'}`);
  if (value.exclusiveMinimum !== undefined) bounds.push(`above ${value.exclusiveMinimum}`);
  if (value.default !== undefined) bounds.push(`default ${JSON.stringify(value.default)}`);
  return bounds;
}

/** One field: its name, type, limits and description, and the fields inside. */
export function field(name, schema, { required = false, description = null, depth = 0 } = {}) {
  const value = resolve(schema);
  const text = description ?? value.description;
  const type = [typeOf(schema), ...limits(value)].join(' · ');
  const nested = depth < MAX_DEPTH && hasFields(schema);
  return h('div', { className: 'field' },
    h('code', {}, name), h('span', { className: 'type' }, type), required && h('span', { className: 'required' }, 'required'),
    text && markdown(text, 5),
    nested && lazy({}, h('summary', { className: 'small muted' }, 'fields'), () => fieldsOf(schema, depth + 1)));
}

/** Returns whether a schema has fields of its own or in its parts. */
function hasFields(schema) {
  const value = resolve(schema);
  if (value.items) return hasFields(value.items);
  return Boolean(value.properties) || (value.oneOf ?? value.anyOf ?? value.allOf ?? []).some(hasFields);
}

/** The fields of an object, or of the objects in an array; null if the schema has none. */
export function fieldsOf(schema, depth = 0) {
  const value = resolve(schema);
  if (depth > MAX_DEPTH) return null;
  if (value.items) return fieldsOf(value.items, depth);
  const all = Object.entries(value.properties ?? {});
  const required = new Set(value.required ?? []);
  const own = all.map(([name, inner]) => field(name, inner, { required: required.has(name), depth }));
  const parts = (value.oneOf ?? value.anyOf ?? value.allOf ?? []).map((part) => fieldsOf(part, depth + 1)).filter(Boolean);
  if (own.length === 0 && parts.length === 0) return null;
  return h('div', { className: 'fields' }, own, parts);
}

/** The example of a media type: its own, the first named one, or that of its schema. */
export function exampleOf(media) {
  if (media.example !== undefined) return media.example;
  const [first] = Object.values(media.examples ?? {});
  return first ? resolve(first).value : resolve(media.schema).example;
}
