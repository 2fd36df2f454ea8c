// Sends requests to the API with the key of the user, and reads problem documents and stage times.

import { store, stored } from './dom.js';

const KEY = 'sightline-key';
let key = stored('sessionStorage', KEY) ?? '';

/** Returns the API key that the user entered, or an empty string. It lasts until the tab is closed. */
export const apiKey = () => key;

/** Sets the API key. */
export function setApiKey(value) {
  key = value;
  store('sessionStorage', KEY, value);
}

/** An error response of the server, or a request that got none. */
export class Failure extends Error {
  constructor(problem, response) {
    super(problem.detail);
    this.problem = problem;
    this.requestId = response?.headers.get('x-request-id') ?? null;
    this.retryAfter = response?.headers.get('retry-after') ?? null;
  }
}

/** Sends a request and returns the response. Throws a `Failure` for an error status and if there is no response. */
export async function send(path, init = {}) {
  const headers = new Headers(init.headers);
  if (key) headers.set('authorization', `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...init, headers, cache: 'no-store', credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure({ title: 'No response', code: 'no_response', detail: 'the server did not respond: is it running?' });
  }
  if (!response.ok) throw new Failure(await problemOf(response), response);
  return response;
}

/** Returns the problem document of an error response, or one that describes the response if it has none. */
export async function problemOf(response) {
  const text = await response.text();
  try {
    const problem = JSON.parse(text);
    if (problem.code) return { title: response.statusText, status: response.status, detail: problem.error, ...problem };
  } catch {
    // Not JSON: a proxy may have sent it.
  }
  const detail = text.slice(0, 300) || 'the response has no description of the error';
  return { title: response.statusText || 'Error', status: response.status, code: 'unknown', detail };
}

/** Returns the JSON of `GET path`. */
export const getJson = async (path) => (await send(path)).json();

const STAGES = ['admission', 'decode', 'preprocess', 'queue', 'inference', 'postprocess', 'encode'];

/** Parses `Server-Timing` to the milliseconds of each stage, and `total`. */
export function serverTiming(header) {
  const times = {};
  for (const entry of (header ?? '').split(',')) {
    const [name, ...parameters] = entry.trim().split(';');
    const duration = parameters.find((parameter) => parameter.startsWith('dur='));
    if (name && duration) times[name] = Number(duration.slice(4));
  }
  const stages = STAGES.filter((stage) => stage in times).map((stage) => ({ stage, ms: times[stage] }));
  return { stages, total: times.total ?? 0 };
}
