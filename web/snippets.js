// The request of the playground as code.

import { apiKey } from './api.js';
import { copy, h } from './dom.js';
import { TASKS } from './models.js';

const QUERY = { classify: 'top_k=5', detect: '', segment: '', embed: 'normalize=true' };
const OUTPUTS = { classify: ['labels', 'scores'], detect: ['boxes', 'labels', 'scores'], segment: ['mask', 'mask_sizes'] };
const PRINTED = { classify: '["predictions"]', detect: '["detections"]', segment: '["classes"]', embed: '["embedding"]' };

/** Returns the examples, by language, for a task, a model and a threshold. The key is never part of them. */
export function examples(task, model, threshold) {
  const parameters = [`model=${model}`, task === 'detect' ? `score_threshold=${threshold}` : QUERY[task]].filter(Boolean);
  const url = `${location.origin}${TASKS[task].route}?${parameters.join('&')}`;
  const needsKey = apiKey() !== '';
  const all = {
    curl: `curl --data-binary @photo.jpg -H 'content-type: image/jpeg' \\\n${needsKey ? '  -H "authorization: Bearer $SIGHTLINE_KEY" \\\n' : ''}  '${url}'`,
    Python: python(task, url, needsKey),
    JavaScript: javascript(task, url, needsKey),
  };
  if (OUTPUTS[task]) all.tritonclient = triton(task, model, threshold, needsKey);
  return all;
}

function python(task, url, needsKey) {
  const headers = needsKey
    ? 'headers = {"content-type": "image/jpeg", "authorization": "Bearer " + os.environ["SIGHTLINE_KEY"]}'
    : 'headers = {"content-type": "image/jpeg"}';
  return `${needsKey ? 'import os\n\n' : ''}import requests

${headers}
with open("photo.jpg", "rb") as image:
    response = requests.post("${url}", data=image, headers=headers)
response.raise_for_status()
print(response.json()["results"][0]${PRINTED[task]})`;
}

function javascript(task, url, needsKey) {
  const field = PRINTED[task].slice(2, -2);
  const key = needsKey ? ", authorization: `Bearer ${key}`" : '';
  return `const response = await fetch('${url}', {
  method: 'POST',
  headers: { 'content-type': 'image/jpeg'${key} },
  body: image, // a File, a Blob or a Buffer
});
const answer = await response.json();
if (!response.ok) throw new Error(answer.detail);
console.log(answer.results[0].${field});`;
}

function triton(task, model, threshold, needsKey) {
  const [name, variant] = model.split('@');
  const parameters = { classify: ', parameters={"top_k": 5}', detect: `, parameters={"score_threshold": ${threshold}}`, segment: '' }[task];
  const headers = needsKey ? ',\n                      headers={"authorization": "Bearer " + os.environ["SIGHTLINE_KEY"]}' : '';
  return `${needsKey ? 'import os\n\n' : ''}import numpy as np
import tritonclient.http as http  # pip install "tritonclient[http]"

client = http.InferenceServerClient("${location.host}"${location.protocol === 'https:' ? ', ssl=True' : ''})
image = http.InferInput("image", [1, 1], "BYTES")
image.set_data_from_numpy(np.array([[open("photo.jpg", "rb").read()]], dtype=np.object_))
result = client.infer("${name}_image${variant ? `@${variant}` : ''}", [image]${parameters}${headers})
print(${OUTPUTS[task].map((output) => `result.as_numpy("${output}")`).join(', ')})`;
}

let chosen = 'curl';

/** Fills `element` with tabs of the examples and a button that copies the shown one. */
export function showExamples(element, all, announce) {
  if (!(chosen in all)) chosen = 'curl';
  const code = h('code', {});
  const pre = h('pre', { className: 'snippet', tabIndex: 0, id: 'snippet', attrs: { role: 'tabpanel', 'aria-label': 'Example' } }, code);
  const tabs = Object.keys(all).map((name) => h('button', {
    type: 'button', attrs: { role: 'tab', 'aria-controls': 'snippet' }, onclick: () => select(name),
    onkeydown: (event) => move(event, name),
  }, name));
  const select = (name, focus = false) => {
    chosen = name;
    code.textContent = all[name];
    for (const tab of tabs) {
      const current = tab.textContent === name;
      tab.setAttribute('aria-selected', String(current));
      tab.tabIndex = current ? 0 : -1;
      if (current && focus) tab.focus();
    }
  };
  const move = (event, name) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const names = Object.keys(all);
    select(names[(names.indexOf(name) + step + names.length) % names.length], true);
  };
  const button = h('button', { type: 'button', className: 'small', onclick: async () => {
    const copied = await copy(all[chosen]);
    button.textContent = copied ? 'Copied' : 'Select the text to copy it';
    announce(copied ? 'Copied.' : 'The text could not be copied.');
    setTimeout(() => { button.textContent = 'Copy'; }, 1600);
  } }, 'Copy');
  const list = h('div', { className: 'tabs', attrs: { role: 'tablist', 'aria-label': 'Language' } }, tabs);
  element.replaceChildren(list, pre, h('div', { className: 'code-end' }, button));
  select(chosen);
}
