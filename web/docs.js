// The reference: renders openapi.json, which is openapi.yaml as JSON.

import { byId, h, lazy } from './dom.js';
import { inline, markdown } from './markdown.js';
import { exampleOf, field, fieldsOf, resolve, setDocument, typeOf } from './schema.js';
import { shell } from './shell.js';
import { tryIt } from './tryit.js';

const METHODS = ['get', 'post', 'put', 'delete', 'patch'];

function operationsOf(document) {
  return Object.entries(document.paths).flatMap(([path, item]) => METHODS.filter((method) => item[method])
    .map((method) => ({ path, method, operation: item[method], parameters: [...(item.parameters ?? []), ...(item[method].parameters ?? [])].map(resolve) })));
}

/** Returns a path that may be broken before each slash. */
const breakable = (path) => path.split(/(?=\/)/).flatMap((part) => [h('wbr'), part]);

const badge = (method) => h('span', { className: `method ${method}` }, method.toUpperCase());

function parameterList(parameters) {
  if (parameters.length === 0) return [];
  const rows = parameters.map(({ name, in: place, required, schema, description }) => field(name, schema, { required, description: `${place === 'query' ? '' : `In the ${place}. `}${description ?? ''}` }));
  return [h('h4', {}, 'Parameters'), h('div', { className: 'fields' }, rows)];
}

function content(media) {
  return Object.entries(media ?? {}).flatMap(([kind, value]) => {
    const example = exampleOf(value);
    const shown = typeof example === 'string' ? example : JSON.stringify(example, null, 2);
    return [
      h('p', {}, h('code', {}, kind), h('span', { className: 'muted small' }, `  ${typeOf(value.schema)}`)),
      fieldsOf(value.schema),
      example !== undefined && h('pre', { className: 'block', tabIndex: 0 }, h('code', {}, shown)),
    ].filter(Boolean);
  });
}

function headerList(headers) {
  const all = Object.entries(headers ?? {}).map(([name, value]) => [name, resolve(value)]);
  if (all.length === 0) return null;
  const rows = all.map(([name, { schema, description }]) => field(name, schema, { description }));
  return h('details', {}, h('summary', { className: 'small muted' }, 'headers'), h('div', { className: 'fields' }, rows));
}

function responseList(responses) {
  const rows = Object.entries(responses).map(([status, reference]) => {
    const response = resolve(reference);
    const [first, ...rest] = (response.description ?? '').trim().split('\n');
    const summary = h('summary', {}, h('span', { className: status < '400' ? 'status' : 'status failed' }, status), inline(first));
    return lazy({ className: 'response' }, summary, () => [rest.length > 0 && markdown(rest.join('\n'), 5), content(response.content), headerList(response.headers)].flat());
  });
  return [h('h4', {}, 'Responses'), ...rows];
}

function section({ path, method, operation, parameters }) {
  const body = operation.requestBody && resolve(operation.requestBody);
  return h('section', { className: 'card operation', id: operation.operationId, attrs: { 'aria-label': `${method} ${path}` } },
    h('h3', {}, badge(method), h('code', {}, path)),
    h('p', { className: 'lead' }, operation.summary),
    operation.description && markdown(operation.description, 4),
    parameterList(parameters),
    body && [h('h4', {}, 'Body'), body.description && markdown(body.description, 5), content(body.content)].filter(Boolean),
    responseList(operation.responses),
    lazy({ className: 'try' }, h('summary', {}, 'Try it'), () => tryIt(path, method, operation, parameters)));
}

function links(groups) {
  byId('links').replaceChildren(...groups.flatMap(({ tag, operations }) => [
    h('h2', {}, tag.name),
    h('ul', {}, operations.map(({ path, method, operation }) => h('li', {}, h('a', { href: `#${operation.operationId}` }, badge(method), h('span', {}, breakable(path)))))),
  ]));
  byId('filter').addEventListener('input', ({ target }) => {
    const words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { operations } of groups) {
      for (const { path, method, operation } of operations) {
        const text = `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase();
        const matches = words.every((word) => text.includes(word));
        byId(operation.operationId).hidden = !matches;
        document.querySelector(`#links a[href="#${operation.operationId}"]`).parentElement.hidden = !matches;
      }
    }
  });
}

/** Marks the link to the operation at the top of the window. */
function follow() {
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = document.querySelector(`#links a[href="#${target.id}"]`);
      if (isIntersecting) link?.setAttribute('aria-current', 'true');
      else link?.removeAttribute('aria-current');
    }
  }, { rootMargin: '-80px 0px -75% 0px' });
  for (const operation of document.querySelectorAll('.operation')) observer.observe(operation);
}

async function start() {
  const description = await (await fetch('/assets/openapi.json')).json();
  setDocument(description);
  const all = operationsOf(description);
  const groups = description.tags.map((tag) => ({ tag, operations: all.filter(({ operation }) => operation.tags?.[0] === tag.name) }));
  byId('main').replaceChildren(
    h('h1', {}, 'Reference'),
    h('p', { className: 'muted small' }, `Version ${description.info.version}. The same as `, h('a', { href: '/openapi.yaml' }, 'openapi.yaml'), ', for generators of clients.'),
    markdown(description.info.description, 2),
    ...groups.flatMap(({ tag, operations }) => [h('h2', { className: 'tag-title' }, tag.name.charAt(0).toUpperCase() + tag.name.slice(1)), markdown(tag.description), ...operations.map(section)]));
  links(groups);
  follow();
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

shell();
start();
