// @ts-check
/**
 * What can be undone, oldest dropped first once it weighs more than `budget`.
 * @template {{bytes: number}} Edit
 */
export class History {
  /** @type {Edit[]} */
  #done = [];
  /** @type {Edit[]} */
  #undone = [];

  /** @param {number} budget bytes */
  constructor(budget) {
    this.budget = budget;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** @param {Edit} edit */
  add(edit) {
    this.#undone = [];
    this.#done.push(edit);
    let weight = this.#done.reduce((sum, each) => sum + each.bytes, 0);
    while (weight > this.budget && this.#done.length > 1) weight -= this.#done.shift()?.bytes ?? 0;
  }

  /** The edit to take back, if there is one. */
  undo() {
    const edit = this.#done.pop();
    if (edit) this.#undone.push(edit);
    return edit;
  }

  /** The edit to make again, if there is one. */
  redo() {
    const edit = this.#undone.pop();
    if (edit) this.#done.push(edit);
    return edit;
  }
}
