// A page that is opened from the disk may start no worker, without which the theme hides its search:
// here the worker's script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "Search";
      this.scope = new Promise((done) => {
        frame.addEventListener("load", () => {
          const scope = frame.contentWindow;
          scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = scope.document.createElement("script");
          script.src = address;
          script.addEventListener("load", () => done(scope));
          scope.document.head.append(script);
        }, { once: true });
      });
      document.body.append(frame);
    }
    async postMessage(data) {
      const scope = await this.scope;
      scope.dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
