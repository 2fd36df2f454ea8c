// The served models, and what is known about them.

import { getJson } from './api.js';
import { bytes, count, fixed, h } from './dom.js';

/** The tasks, with the models that serve them, the route, and the parameters that let the page filter by itself. */
export const TASKS = {
  classify: { name: 'Classify', models: 'classification', route: '/v1/classify', query: { top_k: 20 } },
  detect: { name: 'Detect', models: 'detection', route: '/v1/detect', query: { score_threshold: 0.05, max_detections: 300 } },
  segment: { name: 'Segment', models: 'segmentation', route: '/v1/segment', query: { mask: 'rle' } },
  embed: { name: 'Embed', models: 'classification', route: '/v1/embed', query: { normalize: true } },
};

/** Returns the served models. */
export const loadModels = async () => (await getJson('/v1/models')).models;

/** Returns the name that selects exactly this variant. */
export const idOf = (model) => `${model.name}@${model.variant}`;

const FIGURES = {
  acc1: 'top-1', acc5: 'top-5', box_map: 'box mAP', AP: 'box AP', miou: 'mIoU', pixel_acc: 'pixel accuracy',
};

/** Returns the accuracy of a model as text: measured with its files if there is a certificate, else as published. */
export function accuracy(model) {
  const list = (figures) => Object.entries(figures).filter(([name]) => FIGURES[name])
    .map(([name, value]) => `${fixed(value, 1)} % ${FIGURES[name]}`).join(', ');
  const { certificate, provenance } = model;
  if (certificate) return `${list(certificate.figures)} (measured on ${certificate.images} images)`;
  const published = provenance?.published_accuracy;
  if (!published || Object.keys(published).length === 0) return 'not measured (sightline eval)';
  return `${list(published)} (published${model.precision === 'fp32' ? '' : ', fp32'})`;
}

const STATES = { not_loaded: 'loads with the first request', unloaded: 'unloaded by an operator', loading: 'loading' };

/**
 * Returns a list of what is known about a model. If `all` has several models, it begins with the name, and those after
 * the first leave out what they have in common with it.
 */
export function facts(model, index, all) {
  const rows = rowsOf(model);
  const first = index > 0 ? rowsOf(all[0]) : [];
  const own = rows.filter(([, value], row) => value && value !== first[row]?.[1]);
  const known = all.length > 1 ? [['Model', idOf(model)], ...own] : own;
  return h('dl', { className: 'facts' }, known.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

function rowsOf(model) {
  const { provenance } = model;
  const size = [
    provenance && `${count(provenance.parameters)} parameters`,
    model.memory_bytes && `${bytes(model.memory_bytes)} in memory`,
  ].filter(Boolean).join(', ');
  const license = provenance?.license ?? model.code_license;
  return [
    ['Network', model.description],
    ['Accuracy', accuracy(model)],
    ['Size', size || 'not known'],
    ['License', license ? `${license}${provenance?.training_data ? `; trained on ${provenance.training_data}` : ''}` : 'not known'],
    ['State', STATES[model.state]],
  ];
}
