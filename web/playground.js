// The playground: holds the state and connects the parts.

import { byId, h, ms } from './dom.js';
import { openCamera, closeCamera, frameOf, live } from './camera.js';
import { showControls } from './controls.js';
import { addFiles, fromFile, samples, showGallery } from './gallery.js';
import { TASKS, facts, idOf, loadModels } from './models.js';
import { problemCard } from './problems.js';
import { headline } from './results.js';
import { infer, runOf } from './runner.js';
import { onKey, shell } from './shell.js';
import { showExamples, examples } from './snippets.js';
import { paneOf, showPanes } from './stage.js';
import { showDetails } from './details.js';
import { speedDifference, timeBar } from './timing.js';

const state = {
  models: [], task: 'classify', model: null, other: null, items: samples(), current: null, video: null, stop: null,
  threshold: 0.5, opacity: 0.55, labels: 5, hidden: new Set(), marked: true, liveRun: null,
};
state.current = state.items[0];

const announce = (text) => { byId('announcements').textContent = text; };
const shortName = (id) => (id.startsWith(`${state.model?.split('@')[0]}@`) && state.other ? id.split('@')[1] : id.replace(/@fp32$/, ''));
/** The models in use: one, or two that are compared. */
const chosen = () => [state.model, state.other].filter(Boolean);
const namesOf = (ids) => (new Set(ids.map((id) => id.split('@')[0])).size === 1 && ids.length > 1 ? ids.map((id) => id.split('@')[1]) : ids.map(shortName));

// ---- choices

function showTasks() {
  const served = (id) => state.models.some(({ task }) => task === TASKS[id].models);
  const radios = Object.entries(TASKS).map(([id, { name, models }]) => {
    const title = served(id) ? '' : `No ${models} model is served; see “sightline models”`;
    const input = h('input', { type: 'radio', name: 'task', value: id, checked: id === state.task, disabled: !served(id), onchange: () => setTask(id) });
    return h('label', { title }, input, name);
  });
  byId('tasks').replaceChildren(byId('tasks').firstElementChild, ...radios);
}

function setTask(task) {
  state.task = task;
  state.hidden.clear();
  const models = state.models.filter((model) => model.task === TASKS[task].models);
  const keep = (id) => models.some((model) => idOf(model) === id);
  const fallback = models.find((model) => model.default) ?? models[0];
  if (!keep(state.model)) state.model = fallback ? idOf(fallback) : null;
  if (!keep(state.other)) state.other = null;
  const option = (model) => h('option', { value: idOf(model), selected: idOf(model) === state.model }, `${model.name} · ${model.variant}`);
  byId('model').replaceChildren(...models.map(option));
  byId('other').replaceChildren(h('option', { value: '' }, 'nothing'), ...models.map(option));
  byId('other').value = state.other ?? '';
  showTasks();
  modelChanged();
}

const describedModels = () => chosen().map((id) => state.models.find((model) => idOf(model) === id)).filter(Boolean);

function modelChanged() {
  byId('facts').replaceChildren(...describedModels().map(facts));
  state.liveRun = null;
  show();
}

/** Reads the state of the models again if a run has loaded one of them. */
async function showLoaded() {
  const pending = (id) => state.models.some((model) => idOf(model) === id && model.state === 'not_loaded');
  if (!chosen().some(pending)) return;
  try {
    state.models = await loadModels();
  } catch {
    return; // The run itself has succeeded; the facts stay as they are.
  }
  byId('facts').replaceChildren(...describedModels().map(facts));
}

// ---- results

/** Called when a run has ended. */
function ended(item, run) {
  if (item === state.current && run.state === 'done') announce(`${item.name}: ${headline(run.task, run.result, state.threshold)}`);
  if (item === state.current && run.state === 'failed') announce(`${item.name}: ${run.failure.message}`);
  if (run.state === 'done') showLoaded();
  requestShow();
}

let requested = false;
function requestShow() {
  if (requested) return;
  requested = true;
  requestAnimationFrame(() => { requested = false; show(); });
}

function runs() {
  if (state.video) return state.liveRun ? [state.liveRun] : [];
  if (state.task === 'embed' && state.model) for (const item of state.items) chosen().forEach((id) => runOf(item, 'embed', id, ended));
  return chosen().map((id) => runOf(state.current, state.task, id, ended));
}

function show() {
  if (!state.model) return;
  const current = runs();
  const ids = state.video ? [state.model] : chosen();
  const names = namesOf(ids);
  showPanes(byId('panes'), state, current, names);
  showControls(byId('controls'), state, current, show);
  showResults(current, names);
  showGallery(byId('gallery'), state, pick, remove);
  const done = current.filter((run) => run.state === 'done');
  byId('timing').hidden = done.length === 0;
  byId('again').hidden = state.video !== null;
  const bars = current.flatMap((run, index) => (run.state === 'done' ? [timeBar(names[index], run)] : []));
  byId('times').replaceChildren(...bars, ...(done.length === 2 ? [speedDifference(done, names)].filter(Boolean) : []));
  showExamples(byId('code'), examples(state.task, state.model, state.threshold), announce);
  byId('clear').hidden = !state.items.some(({ own }) => own);
}

function showResults(current, names) {
  const element = byId('results');
  const focused = document.activeElement?.id;
  const failed = current.filter((run) => run.state === 'failed');
  if (failed.length > 0) element.replaceChildren(...failed.map((run) => problemCard(run.failure)), again());
  else if (current.length === 0) element.replaceChildren(h('p', { className: 'muted' }, 'Press Live to send frames of the camera, or take one.'));
  else if (current.some((run) => run.state === 'pending')) element.replaceChildren(h('p', { className: 'muted' }, 'Waiting for the server …'));
  else showDetails(element, state, current, names, { show, pane: paneOf(byId('panes')) });
  element.dataset.state = failed.length > 0 ? 'failed' : current.some((run) => run.state === 'pending') ? 'pending' : 'done';
  if (focused && focused !== document.activeElement?.id && !byId(focused)?.hidden) byId(focused)?.focus();
}

const runAgain = () => { state.current.runs.clear(); show(); };
const again = () => h('button', { type: 'button', onclick: runAgain }, 'Try again');

// ---- images

function pick(item) {
  endCamera();
  state.current = item;
  show();
}

function remove(item) {
  URL.revokeObjectURL(item.url);
  state.items.splice(state.items.indexOf(item), 1);
  if (state.current === item) state.current = state.items[0];
  show();
}

function add(files) {
  const images = [...files].filter((file) => file.size > 0 || file.name);
  if (images.length === 0) return;
  const left = addFiles(state.items, images);
  endCamera();
  state.current = state.items[state.items.length - 1];
  for (const item of state.items.filter(({ own }) => own)) chosen().forEach((id) => runOf(item, state.task, id, ended));
  if (left > 0) byId('hint').textContent = `${left} images were left out: at most 64 fit`;
  show();
}

function connectSources() {
  const files = byId('files');
  byId('choose').addEventListener('click', () => files.click());
  files.addEventListener('change', () => { add(files.files); files.value = ''; });
  addEventListener('paste', (event) => {
    if (event.clipboardData?.files.length) { event.preventDefault(); add(event.clipboardData.files); }
  });
  const stage = byId('stage');
  const dragging = (on) => { stage.classList.toggle('dragging', on); byId('drop').hidden = !on; };
  addEventListener('dragover', (event) => { event.preventDefault(); dragging(true); });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) dragging(false); });
  addEventListener('drop', (event) => { event.preventDefault(); dragging(false); add(event.dataTransfer.files); });
  byId('run-all').addEventListener('click', () => {
    for (const item of state.items) chosen().forEach((id) => runOf(item, state.task, id, ended));
    show();
  });
  byId('clear').addEventListener('click', () => state.items.filter(({ own }) => own).forEach(remove));
}

// ---- camera

async function startCamera() {
  if (state.video) { endCamera(); show(); return; }
  try {
    state.video = await openCamera();
  } catch (error) {
    byId('hint').textContent = error.message;
    announce(error.message);
    return;
  }
  byId('camera').textContent = 'Close camera';
  byId('camera-controls').hidden = false;
  show();
}

function endCamera() {
  if (!state.video) return;
  stopLive();
  closeCamera(state.video);
  Object.assign(state, { video: null, liveRun: null });
  byId('camera').textContent = 'Camera';
  byId('camera-controls').hidden = true;
  byId('hint').textContent = '';
}

function stopLive() {
  state.stop?.abort();
  state.stop = null;
  byId('live').setAttribute('aria-pressed', 'false');
  byId('live').textContent = 'Live';
}

async function toggleLive() {
  if (state.stop) { stopLive(); return; }
  const stop = new AbortController();
  state.stop = stop;
  byId('live').setAttribute('aria-pressed', 'true');
  byId('live').textContent = 'Stop';
  const shown = (run, rate) => {
    state.liveRun = { state: 'done', task: state.task, ...run };
    byId('hint').textContent = rate > 0 ? `${rate.toFixed(1)} frames per second, ${ms(run.roundTrip)} each` : 'measuring the frame rate …';
    requestShow();
  };
  try {
    await live(state.video, (frame, signal) => infer(state.task, state.model, frame, signal), shown, stop.signal);
  } catch (failure) {
    if (failure.name !== 'AbortError') { state.liveRun = { state: 'failed', failure }; show(); }
  }
  if (state.stop === stop) stopLive();
}

function connectCamera() {
  byId('camera').addEventListener('click', startCamera);
  byId('live').addEventListener('click', toggleLive);
  byId('capture').addEventListener('click', async () => {
    const frame = fromFile(await frameOf(state.video), `Frame ${new Date().toLocaleTimeString()}`);
    state.items.push(frame);
    pick(frame);
  });
}

// ---- start

async function start() {
  try {
    state.models = await loadModels();
  } catch (failure) {
    byId('results').replaceChildren(problemCard(failure), h('button', { type: 'button', onclick: start }, 'Try again'));
    byId('results').dataset.state = 'failed';
    return;
  }
  const first = Object.keys(TASKS).find((id) => state.models.some(({ task }) => task === TASKS[id].models));
  if (first) setTask(first);
  else byId('results').replaceChildren(h('p', { className: 'muted' }, 'No model is served.'));
}

shell();
connectSources();
connectCamera();
byId('choices').addEventListener('submit', (event) => event.preventDefault());
byId('model').addEventListener('change', (event) => { state.model = event.target.value; state.hidden.clear(); modelChanged(); });
byId('other').addEventListener('change', (event) => { state.other = event.target.value || null; modelChanged(); });
byId('again').addEventListener('click', runAgain);
onKey(() => { for (const item of state.items) item.runs.clear(); start(); });
addEventListener('resize', requestShow);
start();
