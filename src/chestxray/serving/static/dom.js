// Creates elements and sentences.

export const by = (id) => document.getElementById(id);

// Shows whether a button is pressed.
export const press = (id, on) => by(id).setAttribute("aria-pressed", on);

export function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

// Writes a phrase as a sentence: capital letter, full stop.
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
