// Asks the user for the token when the server requires one.

import { setToken } from "./api.js";
import { by } from "./dom.js";

// Wraps a call: asks for the token and repeats the call until it is accepted.
export function withToken(call) {
  return async (...given) => {
    for (;;) {
      try {
        return await call(...given);
      } catch (problem) {
        if (problem.code !== "unauthorized") throw problem;
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
