// @ts-check
/** The element of index.html with this id. @template {HTMLElement} T @param {string} id @returns {T} */
export function $(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`#${id} is missing in index.html`);
  return /** @type {T} */ (found);
}
