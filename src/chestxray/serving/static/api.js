// Calls the server. File names stay in the browser; the token stays in this tab.

const MAX_ATTEMPTS = 40;
let token = sessionStorage.getItem("token") ?? "";

// A failed request, with the problem details that the server sent.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.notices = body.notices ?? [];
    this.display = body.display ?? null;
    this.forceAllowed = body.force_allowed ?? false;
  }

  // Whether the same file may be read at the next attempt.
  get temporary() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

export const model = async () => (await request("/v1/model")).json();
export const examples = async () => (await request("/v1/examples")).json();
export const example = async (name) => (await request(`/v1/examples/${name}.png`)).blob();

// Gives the reading of a file with its heatmaps and its image; waits while the server is busy.
//   force: whether it is read even if the model must not judge it.
export async function read(file, force = false) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    const detail = "This browser cannot open the file. It may be a folder, or no longer exist.";
    throw new Problem(0, { code: "file", detail });
  });
  const body = new FormData();
  body.append("file", file, "radiograph");
  for (let attempt = 1; ; attempt++) {
    try {
      const options = { method: "POST", body };
      return await (await request(`/v1/read?heatmaps=json&display=true${force ? "&force=true" : ""}`, options)).json();
    } catch (problem) {
      const wait = problem.code === "busy" || problem.code === "starting";
      if (!wait || attempt === MAX_ATTEMPTS) throw problem;
      await new Promise((done) => setTimeout(done, 500 + 1000 * Math.random()));
    }
  }
}

async function request(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    const detail = "The server cannot be reached. Check that it is running.";
    throw new Problem(0, { code: "network", detail });
  }
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}
