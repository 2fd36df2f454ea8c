// Renders the Markdown of openapi.yaml: paragraphs, headings, lists, tables, code, emphasis and links.

import { h } from './dom.js';

/** Renders `text` as elements. Headings begin at the level `level`. */
export function markdown(text, level = 3) {
  const lines = (text ?? '').replace(/\s+$/, '').split('\n');
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const [block, next] = blockAt(lines, at, level);
    if (block) blocks.push(block);
    at = next;
  }
  return h('div', { className: 'prose' }, blocks);
}

function blockAt(lines, at, level) {
  const line = lines[at];
  if (line.trim() === '') return [null, at + 1];
  const heading = /^(#{1,4}) (.*)$/.exec(line);
  if (heading) return [h(`h${Math.min(6, level + heading[1].length - 2)}`, {}, inline(heading[2])), at + 1];
  if (line.startsWith('```')) {
    const end = lines.findIndex((other, index) => index > at && other.startsWith('```'));
    const last = end < 0 ? lines.length : end;
    return [code(lines.slice(at + 1, last)), last + 1];
  }
  if (line.startsWith('    ')) {
    const end = until(lines, at, (other) => other !== '' && !other.startsWith('    '));
    return [code(lines.slice(at, end).map((other) => other.slice(4))), end];
  }
  if (line.startsWith('|')) {
    const end = until(lines, at, (other) => !other.startsWith('|'));
    return [table(lines.slice(at, end)), end];
  }
  if (/^[-*] /.test(line)) {
    const end = until(lines, at, (other) => !/^([-*] |  \S)/.test(other));
    const items = lines.slice(at, end).join('\n').split(/\n?^[-*] /m).slice(1);
    return [h('ul', {}, items.map((item) => h('li', {}, inline(item.replace(/\n\s*/g, ' '))))), end];
  }
  const end = until(lines, at, (other) => other.trim() === '' || /^(\||[-*] |#{1,4} |```)/.test(other));
  return [h('p', {}, inline(lines.slice(at, end).join(' '))), end];
}

function until(lines, at, ends) {
  let end = at + 1;
  while (end < lines.length && !ends(lines[end])) end += 1;
  return end;
}

const code = (lines) => h('pre', { tabIndex: 0 }, h('code', {}, lines.join('\n').replace(/\n+$/, '')));

function table([head, , ...rows]) {
  const cells = (row) => row.replace(/^\||\|$/g, '').split('|').map((cell) => inline(cell.trim()));
  return h('div', { className: 'scroll', tabIndex: 0 }, h('table', {},
    h('thead', {}, h('tr', {}, cells(head).map((cell) => h('th', { scope: 'col' }, cell)))),
    h('tbody', {}, rows.map((row) => h('tr', {}, cells(row).map((cell) => h('td', {}, cell)))))));
}

/** Renders code spans, links and bold text. */
export function inline(text) {
  const parts = [];
  const pattern = /`([^`]+)`|\[([^\]]+)\]\(([^)]+)\)|\*\*([^*]+)\*\*/g;
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[1]) parts.push(h('code', {}, match[1]));
    else if (match[4]) parts.push(h('strong', {}, match[4]));
    else if (/^(https?:|#|\/)/.test(match[3])) parts.push(h('a', { href: match[3] }, match[2]));
    else parts.push(match[2]);
  }
  parts.push(text.slice(at));
  return parts;
}
