// The header of every page: navigation, API key, color scheme.

import { apiKey, setApiKey } from './api.js';
import { byId, h, store } from './dom.js';

const PAGES = [['/', 'Playground'], ['/docs', 'Reference'], ['/status', 'Status']];
const listeners = [];

/** Calls `listener` when the user has changed the API key. */
export const onKey = (listener) => listeners.push(listener);

/** Fills the header `#top`. `admin` states that the page is on the admin listener, which has no other pages. */
export function shell(admin = false) {
  const current = location.pathname;
  const links = PAGES.filter(([path]) => !admin || path === current).map(([path, name]) => {
    const attrs = path === current ? { 'aria-current': 'page' } : {};
    return h('a', { href: path, attrs }, name);
  });
  const key = h('button', { type: 'button', id: 'key-button', onclick: () => dialog.showModal() });
  const dialog = keyDialog(key);
  byId('top').append(
    h('a', { className: 'brand', href: admin ? '/status' : '/' }, h('img', { src: '/assets/icon.svg', alt: '' }), 'Sightline'),
    h('nav', { attrs: { 'aria-label': 'Pages' } }, links),
    h('div', { className: 'end' }, key, themeButton()),
  );
  document.body.append(dialog);
}

function keyDialog(button) {
  const field = h('input', { type: 'password', id: 'key', autocomplete: 'off', spellcheck: false });
  const show = () => {
    button.textContent = apiKey() ? 'API key set' : 'API key';
    button.classList.toggle('quiet', !apiKey());
    remove.hidden = !apiKey();
    field.value = apiKey();
  };
  const change = (value) => {
    setApiKey(value.trim());
    show();
    dialog.close();
    for (const listener of listeners) listener();
  };
  const remove = h('button', { type: 'button', className: 'quiet', onclick: () => change('') }, 'Remove');
  const form = h('form', { method: 'dialog', onsubmit: (event) => { event.preventDefault(); change(field.value); } },
    h('h2', { id: 'key-title' }, 'API key'),
    h('p', { className: 'muted' }, 'Only for servers that require one. It is kept in this tab and sent to this server only.'),
    h('div', {}, h('label', { htmlFor: 'key' }, 'Key'), field),
    h('div', { className: 'row' },
      remove,
      h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
      h('button', { type: 'submit', className: 'primary' }, 'Use key')));
  const dialog = h('dialog', { attrs: { 'aria-labelledby': 'key-title' } }, form);
  show();
  return dialog;
}

function themeButton() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light')) === 'dark';
  const button = h('button', { type: 'button', className: 'quiet', id: 'theme' });
  const show = () => {
    button.textContent = isDark() ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Use the ${isDark() ? 'light' : 'dark'} color scheme`);
  };
  button.addEventListener('click', () => {
    const theme = isDark() ? 'light' : 'dark';
    document.documentElement.dataset.theme = theme;
    store('localStorage', 'sightline-theme', theme);
    show();
  });
  dark.addEventListener('change', show);
  show();
  return button;
}
