// Asks for the token where the server does.

import { setToken } from "./api.js";
import { by } from "./dom.js";

// Wraps a call so that it asks for the token and tries again.
export function withToken(call) {
  return async (...given) => {
    for (;;) {
      try {
        return await call(...given);
      } catch (problem) {
        if (problem.code !== "token") throw problem;
        await askToken();
      }
    }
  };
}

let asking = null;
function askToken() {
  asking ??= new Promise((done) => {
    const dialog = by("token");
    dialog.addEventListener("close", () => {
      setToken(by("token-value").value.trim());
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
