// Sends a request of the reference page from a form and shows the response.

import { apiKey } from './api.js';
import { bytes, h, ms } from './dom.js';
import { exampleOf, resolve } from './schema.js';

/** Longest text of a response that is shown. */
const MAX_TEXT = 60_000;

/** A form that sends the operation `method path`, and the place of its response. */
export function tryIt(path, method, operation, parameters) {
  const id = operation.operationId;
  const fields = parameters.filter(({ in: place }) => place !== 'header').map((parameter) => ({ parameter, input: inputOf(id, parameter) }));
  const body = operation.requestBody && bodyInput(id, resolve(operation.requestBody));
  const answer = h('div', { className: 'answer', attrs: { 'aria-live': 'polite' } });
  const form = h('form', { onsubmit: async (event) => {
    event.preventDefault();
    answer.replaceChildren(h('p', { className: 'muted' }, 'Waiting for the server …'));
    answer.replaceChildren(...await answerTo(path, method, fields, body));
  } },
  fields.length > 0 && h('div', { className: 'inputs' }, fields.map(({ parameter, input }) => h('div', {}, h('label', { htmlFor: input.id }, parameter.name + (parameter.required ? ' (required)' : '')), input))),
  body && h('div', { className: 'inputs' }, body.elements),
  h('div', {}, h('button', { type: 'submit', className: 'primary' }, 'Send request')));
  return [form, answer];
}

function inputOf(id, { name, required, schema, example }) {
  const { type, enum: values } = resolve(schema);
  const choices = values ?? (type === 'boolean' ? [true, false] : null);
  const common = { id: `${id}-${name}`, name, required: Boolean(required) };
  if (choices) return h('select', common, h('option', { value: '' }, 'default'), choices.map((value) => h('option', {}, String(value))));
  return h('input', { ...common, type: 'text', spellcheck: false, value: required && example !== undefined ? String(example) : '', placeholder: example === undefined ? '' : String(example) });
}

/** The inputs of a body: a file if the route takes images, else JSON. */
function bodyInput(id, requestBody) {
  const kinds = Object.keys(requestBody.content ?? {});
  if (kinds.some((kind) => kind.startsWith('image/') || kind === 'application/octet-stream')) {
    const file = h('input', { type: 'file', id: `${id}-body` });
    const send = async () => {
      if (file.files[0]) return { body: file.files[0], type: 'application/octet-stream' };
      return { body: await (await fetch('/samples/cat.jpg')).blob(), type: 'image/jpeg' };
    };
    return { elements: h('div', {}, h('label', { htmlFor: file.id }, 'Image (a sample if none is chosen)'), file), send };
  }
  const kind = kinds.find((name) => name.includes('json')) ?? kinds[0];
  const example = exampleOf(requestBody.content?.[kind] ?? {});
  const text = h('textarea', { id: `${id}-body`, rows: 8, spellcheck: false, value: example === undefined ? '{}' : JSON.stringify(example, null, 2) });
  return { elements: h('div', {}, h('label', { htmlFor: text.id }, kind), text), send: async () => ({ body: text.value, type: kind }) };
}

async function answerTo(path, method, fields, body) {
  let target = path;
  const query = new URLSearchParams();
  for (const { parameter, input } of fields) {
    if (parameter.in === 'path') target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value !== '') query.set(parameter.name, input.value);
  }
  const headers = apiKey() ? { authorization: `Bearer ${apiKey()}` } : {};
  const sent = body ? await body.send() : {};
  if (sent.type) headers['content-type'] = sent.type;
  const url = query.size > 0 ? `${target}?${query}` : target;
  const began = performance.now();
  try {
    const response = await fetch(url, { method: method.toUpperCase(), headers, body: sent.body, cache: 'no-store', credentials: 'omit' });
    return await describe(url, response, await response.blob(), performance.now() - began);
  } catch (error) {
    return [h('p', {}, `The request failed: ${error.message}.`)];
  }
}

async function describe(url, response, blob, time) {
  const kind = response.headers.get('content-type') ?? '';
  const line = h('p', {}, h('span', { className: response.ok ? 'status' : 'status failed' }, String(response.status)),
    h('code', {}, url), h('span', { className: 'muted small' }, `  ${ms(time)}, ${bytes(blob.size)}`));
  const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join('\n');
  const shownHeaders = h('details', {}, h('summary', { className: 'small' }, 'Headers'), block(headers));
  if (kind.startsWith('image/')) return [line, shownHeaders, h('img', { src: URL.createObjectURL(blob), alt: 'The image of the response' })];
  if (!/json|text|yaml|javascript|svg/.test(kind)) return [line, shownHeaders, h('p', { className: 'muted' }, `A body of the type ${kind}.`)];
  return [line, shownHeaders, block(pretty(await blob.text(), kind))];
}

function pretty(text, kind) {
  let shown = text;
  if (kind.includes('json')) {
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // Shown as it is.
    }
  }
  return shown.length > MAX_TEXT ? `${shown.slice(0, MAX_TEXT)}\n… ${shown.length - MAX_TEXT} more characters` : shown;
}

const block = (text) => h('pre', { className: 'block', tabIndex: 0 }, h('code', {}, text));
