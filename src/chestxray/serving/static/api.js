// Talks to the server. File names stay in the browser; the token stays in this tab.

const TRIES = 40;
let token = sessionStorage.getItem("token") ?? "";

export class Problem extends Error {
  constructor(status, body) {
    super(body.sentence ?? `The server answered ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.notices = body.notices ?? [];
    this.display = body.display ?? null;
  }

  // Whether the same file may well be read the next time.
  get passing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

export const model = async () => (await ask("/v1/model")).json();
export const examples = async () => (await ask("/v1/examples")).json();
export const example = async (name) => (await ask(`/v1/examples/${name}.png`)).blob();

// Gives the reading of a file, with its maps and its picture; waits where the server is busy.
export async function read(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    const sentence = "This browser cannot open the file: is it a folder, or gone?";
    throw new Problem(0, { code: "file", sentence });
  });
  const body = new FormData();
  body.append("file", file, "film");
  for (let attempt = 1; ; attempt++) {
    try {
      const options = { method: "POST", body };
      return await (await ask("/v1/read?heatmaps=maps&display=true", options)).json();
    } catch (problem) {
      const wait = problem.code === "busy" || problem.code === "starting";
      if (!wait || attempt === TRIES) throw problem;
      await new Promise((done) => setTimeout(done, 500 + 1000 * Math.random()));
    }
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem(0, { code: "network", sentence: "The server cannot be reached: is it running?" });
  }
  if (answer.ok) return answer;
  throw new Problem(answer.status, await answer.json().catch(() => ({})));
}
