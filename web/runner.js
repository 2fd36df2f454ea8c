// Sends images to a task's route, a few at a time, and keeps the results.

import { send, serverTiming } from './api.js';
import { TASKS } from './models.js';
import { classMap } from './rle.js';

/** Requests in flight at most, so that a gallery does not fill the queue of a small server. */
const PARALLEL = 3;
let active = 0;
const waiting = [];

async function turn(work) {
  if (active >= PARALLEL) await new Promise((resolve) => waiting.push(resolve));
  active += 1;
  try {
    return await work();
  } finally {
    active -= 1;
    waiting.shift()?.();
  }
}

/** Returns the path of a request. */
export const pathOf = (task, model) => `${TASKS[task].route}?${new URLSearchParams({ model, ...TASKS[task].query })}`;

/** Sends one image and returns its result with the times of the stages. */
export async function infer(task, model, blob, signal) {
  const began = performance.now();
  const headers = { 'content-type': 'application/octet-stream' };
  const response = await send(pathOf(task, model), { method: 'POST', body: blob, headers, signal });
  const body = await response.json();
  const roundTrip = performance.now() - began;
  const result = body.results[0];
  if (task === 'segment') result.map = classMap(result.mask);
  return { result, timing: serverTiming(response.headers.get('server-timing')), roundTrip };
}

/**
 * Returns the run of an image: `{ state: 'pending' | 'done' | 'failed', task, ... }`. Starts it if there is none yet. `changed`
 * is called when it has ended.
 */
export function runOf(item, task, model, changed) {
  const key = `${task} ${model}`;
  let run = item.runs.get(key);
  if (!run) {
    run = { state: 'pending', task };
    item.runs.set(key, run);
    turn(async () => infer(task, model, await item.blob()))
      .then((done) => Object.assign(run, { state: 'done' }, done))
      .catch((failure) => Object.assign(run, { state: 'failed', failure }))
      .finally(() => changed(item, run));
  }
  return run;
}

/** Returns the run of an image if it was started, and does not start it. */
export const startedRun = (item, task, model) => item.runs.get(`${task} ${model}`);
