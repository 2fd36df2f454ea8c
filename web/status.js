// The status page: reads /metrics every two seconds and draws what has changed.

import { getJson, send } from './api.js';
import { chart } from './chart.js';
import { byId, bytes, fixed, h, ms } from './dom.js';
import { idOf, loadModels } from './models.js';
import { parse, quantile, rate, sum } from './prometheus.js';
import { problemCard } from './problems.js';
import { onKey, shell } from './shell.js';

const PERIOD = 2000;
/** Time that the charts cover, in milliseconds: from that of the first point on, at least and at most. */
const [MIN_SPAN, SPAN] = [60_000, 5 * 60_000];
/** Time over which a point of a chart is computed: long enough for a quantile at a low rate. */
const WINDOW = 10_000;
const STAGES = [
  ['decode', 'light-dark(#3f6fb5, #7fb0f5)'], ['preprocess', 'light-dark(#7a5bb0, #b79cf0)'], ['queue', 'light-dark(#b4690e, #f0b35c)'],
  ['inference', 'light-dark(#0b6e5f, #4fd0b4)'], ['postprocess', 'light-dark(#a8457b, #f093c2)'],
];
const ACCENT = STAGES[3][1];
const QUIET = STAGES[2][1];
const INFERENCE_ROUTES = ['/v1/classify', '/v1/detect', '/v1/segment', '/v1/embed', '/v2/models/{model}/infer', '/v2/models/{model}/versions/{version}/infer'];

const admin = document.documentElement.dataset.listener === 'admin';
const pages = [];
const points = [];
let models = [];
let polls = 0;
let paused = false;

/** The page about `WINDOW` before the latest one. */
const earlier = () => pages.findLast(({ at }) => at <= pages.at(-1).at - WINDOW) ?? pages[0];

/** The latencies of requests with images: all routes in one histogram. */
function latency(before, now, q) {
  const merged = (page) => {
    const list = (page.get('sightline_request_duration_seconds_bucket') ?? []).filter(({ labels }) => INFERENCE_ROUTES.includes(labels.route));
    return new Map([['latency_bucket', list]]);
  };
  return quantile({ page: merged(before.page) }, { page: merged(now.page) }, 'latency', q);
}

function measure() {
  const [before, now] = [earlier(), pages.at(-1)];
  const at = now.at;
  return {
    at,
    images: rate(before, now, 'sightline_images_total'),
    requests: INFERENCE_ROUTES.reduce((total, route) => total + rate(before, now, 'sightline_requests_total', { route }), 0),
    rejected: rate(before, now, 'sightline_rejected_total'),
    // Without the request for this page of metrics.
    inFlight: Math.max(0, sum(now.page, 'sightline_in_flight') - 1),
    queued: sum(now.page, 'sightline_queue_depth'),
    cpu: rate(before, now, 'process_cpu_seconds_total'),
    rss: sum(now.page, 'process_resident_memory_bytes'),
    p50: latency(before, now, 0.5),
    p99: latency(before, now, 0.99),
    stages: Object.fromEntries(STAGES.map(([stage]) => [stage, quantile(before, now, 'sightline_stage_duration_seconds', 0.5, { stage })])),
  };
}

const line = (name, color, pick) => ({ name, color, points: points.map((point) => ({ at: point.at, value: pick(point) })) });

function showTiles(point) {
  const time = (value) => (value === null ? ['–', ''] : ms(value * 1000).split(' '));
  const tiles = [
    ['Images', fixed(point.images, 1), '/ s'], ['Latency p50', ...time(point.p50)], ['Latency p99', ...time(point.p99)],
    ['In flight', point.inFlight, point.inFlight === 1 ? 'request' : 'requests'],
    ['Waiting', point.queued, point.queued === 1 ? 'image' : 'images'], ['Rejected', fixed(point.rejected, 1), '/ s'],
    ['CPU', fixed(point.cpu, 2), 'cores'], ['Memory', ...bytes(point.rss).split(' ')],
  ];
  byId('tiles').replaceChildren(...tiles.map(([name, value, unit]) => h('div', { className: 'tile' }, h('span', { className: 'label' }, name), h('b', {}, String(value)), h('span', { className: 'unit' }, unit))));
}

function showCharts() {
  const now = points.at(-1).at;
  const options = (format) => ({ now, span: Math.min(SPAN, Math.max(MIN_SPAN, now - points[0].at)), format });
  const seconds = options((value) => ms(value * 1000));
  const perSecond = options((value) => `${fixed(value, value < 10 ? 1 : 0)}/s`);
  byId('charts').replaceChildren(
    chart('Throughput', [line('images', ACCENT, (p) => p.images), line('rejected', QUIET, (p) => p.rejected)], perSecond),
    chart('Latency of requests with images', [line('median', ACCENT, (p) => p.p50), line('99 %', QUIET, (p) => p.p99)], seconds),
    chart('Stages, median', STAGES.map(([stage, color]) => line(stage, color, (p) => p.stages[stage])), seconds),
    chart('Queues', [line('in flight', ACCENT, (p) => p.inFlight), line('waiting', QUIET, (p) => p.queued)], options((value) => fixed(value, 0))),
  );
}

function stateOf(model) {
  if (model.error) return ['failed', `${model.state.replace('_', ' ')}, the last load failed`];
  if (model.state === 'loaded' && !model.ready) return ['failed', 'not ready'];
  return [model.state === 'loaded' ? 'ready' : '', model.state.replace('_', ' ')];
}

function showModels() {
  const now = pages.at(-1);
  const before = now && earlier();
  const head = ['Model', 'State', 'Memory', 'Queue', 'Inference, median', 'Rate', ...(admin ? ['Control'] : [])];
  const rows = models.map((model) => {
    const wanted = { model: model.name, variant: model.variant };
    const [kind, text] = stateOf(model);
    const inference = now && quantile(before, now, 'sightline_stage_duration_seconds', 0.5, { ...wanted, stage: 'inference' });
    const reason = model.unready_reason ?? model.error;
    const cells = [
      h('td', {}, h('code', {}, idOf(model)), h('div', { className: 'muted small' }, model.task)),
      h('td', {}, h('span', { className: `dot ${kind}` }, text), reason && h('div', { className: 'reason' }, reason)),
      h('td', { className: 'number' }, model.memory_bytes ? bytes(model.memory_bytes) : '–'),
      h('td', { className: 'number' }, now ? `${sum(now.page, 'sightline_queue_depth', wanted)} / ${model.batching.max_queue_size}` : '–'),
      h('td', { className: 'number' }, inference ? ms(inference * 1000) : '–'),
      h('td', { className: 'number' }, now ? `${fixed(rate(before, now, 'sightline_images_total', wanted), 1)}/s` : '–'),
    ];
    return h('tr', {}, cells, admin && h('td', {}, actions(model)));
  });
  const focused = document.activeElement?.id;
  byId('models').replaceChildren(
    h('thead', {}, h('tr', {}, head.map((name, index) => h('th', { scope: 'col', className: index >= 2 && index <= 5 ? 'number' : '' }, name)))),
    h('tbody', {}, rows));
  if (focused) byId(focused)?.focus();
}

function actions(model) {
  const id = idOf(model);
  const button = (text, action) => h('button', { type: 'button', className: 'small', id: `${action}-${id}`, attrs: { 'aria-label': `${text} ${id}` }, onclick: () => control(id, action, text) }, text);
  const loaded = model.state === 'loaded';
  return h('div', { className: 'actions' }, button(loaded ? 'Reload' : 'Load', 'load'), loaded && button('Unload', 'unload'));
}

async function control(id, action, text) {
  byId('outcome').replaceChildren(`${text} ${id} …`);
  try {
    await send(`/v1/models/${encodeURIComponent(id)}/${action}`, { method: 'POST' });
    byId('outcome').replaceChildren(`${id} is ${action === 'load' ? 'loaded' : 'unloaded'}.`);
  } catch (failure) {
    byId('outcome').replaceChildren(problemCard(failure));
  }
  await refreshModels();
}

function showMemory() {
  const { page } = pages.at(-1);
  const kinds = (page.get('sightline_budget_bytes') ?? []).filter(({ labels }) => labels.state === 'total');
  byId('memory').replaceChildren(...kinds.map(({ labels: { kind }, value: total }) => {
    const used = sum(page, 'sightline_budget_bytes', { kind, state: 'used' });
    return h('div', { className: 'part' }, h('span', {}, kind), h('span', { className: 'muted number' }, `${bytes(used)} of ${bytes(total)}`),
      h('div', { className: 'meter', attrs: { 'aria-hidden': 'true' } }, h('i', { style: { width: `${total > 0 ? (100 * used) / total : 0}%` } })));
  }));
}

async function refreshModels() {
  models = await loadModels();
  showModels();
}

async function poll() {
  if (paused || document.hidden) return;
  try {
    const response = await send('/metrics', { headers: { accept: 'text/plain' } });
    pages.push({ at: Date.now(), page: parse(await response.text()) });
    while (pages.length > 2 && pages[0].at < Date.now() - 2 * WINDOW) pages.shift();
    if (polls % 5 === 0) models = await loadModels();
    polls += 1;
    byId('failure').replaceChildren();
  } catch (failure) {
    byId('failure').replaceChildren(problemCard(failure));
    byId('state').textContent = 'No current data.';
    return;
  }
  points.push(measure());
  while (points[0].at < Date.now() - SPAN) points.shift();
  await showState();
  showTiles(points.at(-1));
  showCharts();
  showModels();
  showMemory();
}

async function showState() {
  let state = 'Ready.';
  try {
    await getJson('/health/ready');
  } catch (failure) {
    state = `Not ready: ${failure.message}.`;
  }
  const version = pages.at(-1).page.get('sightline_build_info')?.[0]?.labels.version;
  byId('state').textContent = `${state}${version ? ` Version ${version}.` : ''}`;
}

shell(admin);
byId('control').textContent = admin
  ? 'Reload reads the files of a model again; requests are served by the old instance meanwhile.'
  : 'Models are loaded and unloaded at /status of the admin listener (serve --admin-listen), where /metrics needs no API key.';
byId('pause').addEventListener('click', () => {
  paused = !paused;
  byId('pause').setAttribute('aria-pressed', String(paused));
  byId('pause').textContent = paused ? 'Continue' : 'Pause';
});
onKey(poll);
poll();
setInterval(poll, PERIOD);
