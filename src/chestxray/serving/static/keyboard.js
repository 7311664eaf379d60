// Single-key shortcuts. They interfere with speech input, so that they can be switched off
// (WCAG 2.2, 2.1.4); Escape works in any case.

import { by } from "./dom.js";

// actions: key → what it does; escape: called for Escape where no dialog is open.
export function listen(actions, escape) {
  document.addEventListener("keydown", (event) => {
    const dialog = document.querySelector("dialog[open]");
    if (dialog || event.defaultPrevented) return;
    if (event.key === "Escape") return escape();
    const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select");
    if (typing || !by("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault(); // else the key also goes to what the action focuses
    action();
  });
  by("keys").checked = localStorage.getItem("keys") !== "off";
  by("keys").addEventListener("change", () => {
    localStorage.setItem("keys", by("keys").checked ? "on" : "off");
  });
}
