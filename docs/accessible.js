// What the theme leaves out for keyboards and screen readers.
document.addEventListener("DOMContentLoaded", () => {
  // Boxes that scroll sideways can be reached and scrolled by keyboard.
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
    }
  }
  for (const search of document.querySelectorAll(".md-search[role=dialog]")) {
    search.setAttribute("aria-label", "Search");
  }
  // Each landmark has a name of its own; the theme adds those of code blocks some time later.
  const name = () => {
    document.querySelectorAll("nav.md-code__nav").forEach((buttons, at) => {
      if (!buttons.hasAttribute("aria-label")) {
        buttons.setAttribute("aria-label", `Code block ${at + 1}`);
      }
    });
  };
  const taken = new Set();
  for (const nav of document.querySelectorAll("nav.md-nav")) {
    const label = document.getElementById(nav.getAttribute("aria-labelledby"));
    const text = (nav.getAttribute("aria-label") || label?.textContent || "Pages").trim();
    let unique = text;
    for (let count = 2; taken.has(unique); count++) {
      unique = `${text}, level ${count}`;
    }
    taken.add(unique);
    nav.removeAttribute("aria-labelledby");
    nav.setAttribute("aria-label", unique);
  }
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
});
