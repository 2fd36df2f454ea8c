// Shows problem documents: what the server says, and what the user can do.

import { h } from './dom.js';

const ADVICE = {
  unauthorized: 'This server requires an API key.',
  invalid_api_key: 'The server does not know this API key. Check it for missing characters.',
  damaged_image: 'The file is damaged or ends too early. The server never returns a result for part of an image. Export or download the file again.',
  empty_image: 'The file is empty. Choose another one.',
  unknown_image_format: 'The server reads JPEG, PNG, WebP, GIF and BMP, and decides by the content, not by the name. Convert the file to one of these.',
  unsupported_image_feature: 'The file uses a rare feature of its format. Save it again with ordinary settings.',
  too_many_pixels: 'The image has more pixels than the server accepts. Send a smaller one, or raise --max-pixels.',
  too_many_pixels_per_byte: 'The file is tiny for so large an image, as decompression bombs are. Send a smaller one, or raise --max-pixels-per-byte.',
  too_much_memory: 'Decoding this image takes more memory than one image may have. Send a smaller one, or raise --decode-memory-bytes.',
  body_too_large: 'The file is larger than the server accepts. Send a smaller one, or raise --max-body-bytes.',
  image_too_elongated: 'After the resize of this model the image would be too long. Crop it.',
  response_too_large: 'The result does not fit into the memory for responses. Send fewer or smaller images.',
  queue_full: 'The server is busy and rejected the request before it read the image. Try again shortly.',
  deadline_unreachable: 'So many images wait that this one would be late. Try again shortly.',
  body_memory: 'The memory for request bodies is in use. Try again shortly.',
  response_memory: 'The memory for responses is in use. Try again shortly.',
  key_rate: 'This API key has sent its requests of this period. Wait, then try again.',
  key_concurrency: 'This API key has as many requests in flight as it may. Try again shortly.',
  unknown_model: 'The model is not served any more. Reload the page to see the current list.',
  no_embedding: 'This network has no pooled features. Choose another model.',
  model_loading: 'The model is being loaded. Try again in a few seconds.',
  model_load_failed: 'The files of the model cannot be loaded. The log of the server has the reason; the status page shows it, too.',
  model_memory: 'The model does not fit into the memory of the server. Unload another one first.',
  model_unloaded: 'An operator has unloaded this model. Choose another one, or load it on the status page of the admin listener.',
  model_not_ready: 'The model has failed and is being tested. Try again in a few seconds.',
  model_stuck: 'A run of the model did not end in time. Try again; the log of the server has details.',
  starting: 'The server is starting and loads its models. Try again in a few seconds.',
  draining: 'The server is shutting down.',
  deadline_passed: 'The request took longer than it may (--request-timeout-ms).',
  cross_origin: 'Open the status page at an IP address or at localhost, or use curl. A page at another name could be a foreign one.',
  internal: 'The server made a mistake. Its log has the details under the request id.',
  no_response: 'Start it with “make serve”, or check the address and the network.',
};

/** Problems that another API key solves. */
const KEY_CODES = ['unauthorized', 'invalid_api_key'];

/** Returns an element that explains a failure. Errors of the page itself are shown with their message. */
export function problemCard(failure) {
  const { problem, requestId, retryAfter } = failure;
  if (!problem) return h('div', { className: 'problem' }, h('h3', {}, 'The page failed'), h('p', {}, failure.message));
  const facts = [
    ['code', problem.code],
    ['field', problem.field],
    ['expected', problem.expected],
    ['got', problem.got],
    ['retry after', retryAfter && `${retryAfter} s`],
    ['request id', requestId],
  ];
  const title = problem.status ? `${problem.title} (${problem.status})` : problem.title;
  return h('div', { className: 'problem', attrs: { 'data-code': problem.code } },
    h('h3', {}, title),
    h('p', {}, sentence(problem.detail ?? '')),
    ADVICE[problem.code] && h('p', {}, ADVICE[problem.code]),
    KEY_CODES.includes(problem.code) && h('p', {}, h('button', { type: 'button', onclick: () => document.getElementById('key-button').click() }, 'Enter API key')),
    h('dl', {}, facts.filter(([, value]) => value).flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, h('code', {}, value))])));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
