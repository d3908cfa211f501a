/**
 * Does: build elements and keep lists in step with data, by DOM calls only (no markup strings anywhere).
 * Does not: know what is shown.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an HTML element.
 * @param {string} tag
 * @param {Object<string, any>} [attributes] Functions become event listeners; `false` and `null` are left out.
 * @param {...(Node|string)} children Strings become text, never markup.
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * Makes an SVG element; arguments as in `el`.
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** @returns {HTMLElement} the element of the page with this id */
export const byId = (id) => document.getElementById(id);

/**
 * Draws into an element whenever what is shown, or the element's width, has changed.
 * @param {HTMLElement} host
 * @param {number} least Width in px that is drawn at least.
 * @param {(shown: any, width: number) => Element} picture
 * @param {(shown: any) => any} [look] What of it is drawn; plain data.
 * @returns {(shown: any) => void} shows another
 */
export function drawing(host, least, picture, look = (shown) => shown) {
  let shown = [];
  let drawn = "";
  const draw = () => {
    const width = Math.max(least, host.clientWidth);
    const key = JSON.stringify([width, look(shown)]);
    if (key === drawn) return;
    drawn = key;
    host.replaceChildren(picture(shown, width));
  };
  new ResizeObserver(draw).observe(host);
  return (now) => {
    shown = now;
    draw();
  };
}

/** Sets text only when it changed, so that live regions speak once. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Keeps a list's elements in step with items, newest first, without rebuilding those that stay (focus is kept).
 * @template T
 * @param {HTMLElement} list
 * @param {T[]} items Each has a unique `id`.
 * @param {(item: T) => {root: HTMLElement, update: (item: T) => void}} create
 */
export function keepList(list, items, create) {
  list.views ??= new Map();
  const { views } = list;
  const wanted = new Set(items.map((item) => item.id));
  for (const [id, view] of views) {
    if (!wanted.has(id)) {
      const hadFocus = view.root.contains(document.activeElement);
      view.root.remove();
      views.delete(id);
      if (hadFocus) list.closest("section")?.querySelector("input, button")?.focus();
    }
  }
  for (const item of items) {
    let view = views.get(item.id);
    if (!view) {
      view = create(item);
      views.set(item.id, view);
      list.prepend(view.root);
    }
    view.update(item);
  }
}
