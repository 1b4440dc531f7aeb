// @ts-check
/** Keys for everything, listed in the dialog under "?". Single letters can be switched off there (WCAG 2.1.4). */

import { $ } from "./page.js";

/** @param {Element | null} element */
const takesText = (element) =>
  element instanceof HTMLInputElement && ["text", "password", "number", "search"].includes(element.type);

/**
 * @param {Record<string, () => void>} keys by `event.key`, lower case
 * @param {{undo: () => void, redo: () => void}} history
 */
export function listen(keys, history) {
  /** @type {HTMLDialogElement} */
  const help = $("help");
  /** @type {HTMLInputElement} */
  const single = $("single-keys");
  const ask = () => help.showModal();
  $("help-open").addEventListener("click", ask);
  const all = { ...keys, "?": ask };

  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    if (takesText(document.activeElement)) {
      if (event.key === "Escape") $("paper").focus();
      return;
    }
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") (event.shiftKey ? history.redo : history.undo)();
      else if (key === "y") history.redo();
      else return;
    } else {
      const act = all[/** @type {keyof typeof all} */ (key)];
      if (!act || event.altKey || !single.checked) return;
      act();
    }
    event.preventDefault();
  });
}
