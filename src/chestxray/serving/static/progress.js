// How far the list of radiographs is, and which of them are shown.

import { by } from "./dom.js";
import { counted } from "./formatting.js";

export class Progress {
  // list: the RadiographList.
  constructor(list) {
    this.list = list;
    by("filter").addEventListener("change", (event) => list.filter(event.target.value));
    by("remove-all").addEventListener("click", () => list.removeAll());
  }

  // Shows the counts; gives the sentence for a screen reader where all are done, else null.
  update() {
    const { all } = this.list;
    const count = (state) => all.filter((each) => each.state === state).length;
    const [read, refused, unread] = ["read", "refused", "unread"].map(count);
    const done = read + refused + unread;
    by("progress").hidden = all.length < 2;
    by("bar-read").max = Math.max(1, all.length);
    by("bar-read").value = done;
    by("bar-read").hidden = done === all.length;
    const parts = [
      done < all.length ? `${done} of ${all.length} done` : counted(all.length, "radiograph"),
      `${read} read`,
      refused && `${refused} refused`,
      unread && `${unread} not read`,
    ].filter(Boolean);
    by("counts").textContent = parts.join(" · ");
    return done === all.length && all.length > 1 ? `${parts.join(", ")}.` : null;
  }
}
