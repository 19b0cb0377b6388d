// A picture: layers of one size, a wipe between the lowest and the one over it, a cursor and a brush.
export default {
  template: `
    <div class="viewer">
      <div
        ref="frame"
        class="viewer-frame"
        tabindex="0"
        role="group"
        :aria-label="label + '. Arrow keys move the cursor, Enter ' + (brush ? 'paints.' : 'explains the pixel.')"
        :style="frameStyle"
        @pointerdown="press"
        @pointermove="move"
        @pointerup="release"
        @pointercancel="release"
        @pointerleave="leave"
        @keydown="key"
      >
        <img v-if="under" :src="under" :alt="label" draggable="false" />
        <img v-if="over" class="viewer-over" :src="over" alt="" draggable="false" :style="overStyle" />
        <img v-if="veil" :src="veil" alt="" draggable="false" />
        <canvas ref="stroke" :width="width" :height="height"></canvas>
        <div v-if="over" class="viewer-edge" :style="{ left: wipe + '%' }"></div>
        <div v-if="cursor" class="viewer-cursor" :style="cursorStyle"></div>
      </div>
      <input
        v-if="over"
        class="viewer-wipe"
        type="range"
        min="0"
        max="100"
        v-model.number="wipe"
        aria-label="Wipe between measurement (left) and reconstruction (right)"
      />
    </div>
  `,
  props: {
    label: String,
    under: String,
    over: String,
    veil: String,
    height: Number,
    width: Number,
    brush: Number,
    erase: Boolean,
  },
  emits: ["hover", "pick", "paint"],
  data() {
    return { wipe: 0, cursor: null, points: null };
  },
  computed: {
    frameStyle() {
      const ratio = this.width / this.height;
      return {
        aspectRatio: ratio,
        width: `min(100%, calc(65vh * ${ratio}))`,
        cursor: "crosshair",
        touchAction: this.brush ? "none" : "auto", // a finger paints, or scrolls
      };
    },
    overStyle() {
      return { clipPath: `inset(0 0 0 ${this.wipe}%)` };
    },
    cursorStyle() {
      return {
        left: `${(100 * this.cursor.column) / this.width}%`,
        top: `${(100 * this.cursor.row) / this.height}%`,
        width: `${100 / this.width}%`,
        height: `${100 / this.height}%`,
      };
    },
  },
  watch: {
    veil() {
      this.clear();
    },
  },
  methods: {
    place(event) {
      const box = this.$refs.frame.getBoundingClientRect();
      const within = (part, length) => Math.min(length - 1, Math.max(0, Math.floor(part * length)));
      return {
        row: within((event.clientY - box.top) / box.height, this.height),
        column: within((event.clientX - box.left) / box.width, this.width),
      };
    },
    point(place) {
      this.cursor = place;
      this.$emit("hover", place);
    },
    press(event) {
      if (event.button !== 0) return;
      this.$refs.frame.setPointerCapture(event.pointerId);
      this.point(this.place(event));
      this.points = [];
      if (this.brush) this.dab();
    },
    move(event) {
      const from = this.cursor;
      const place = this.place(event);
      if (from && from.row === place.row && from.column === place.column) return;
      this.point(place);
      if (!this.points || !this.brush) return;
      // The pointer skips pixels when it is fast.
      const steps = Math.max(Math.abs(place.row - from.row), Math.abs(place.column - from.column));
      for (let k = 1; k <= steps; k++) {
        this.dab({
          row: from.row + ((place.row - from.row) * k) / steps,
          column: from.column + ((place.column - from.column) * k) / steps,
        });
      }
    },
    release() {
      if (!this.points) return;
      const points = this.points;
      this.points = null;
      if (this.brush) this.$emit("paint", { points });
      else if (this.cursor) this.$emit("pick", this.cursor);
    },
    leave() {
      if (!this.points) this.cursor = null;
    },
    dab(place = this.cursor) {
      this.points.push([place.row, place.column]);
      const context = this.$refs.stroke.getContext("2d");
      context.fillStyle = this.erase ? "#0008" : "#ff00a096";
      context.beginPath();
      context.arc(place.column + 0.5, place.row + 0.5, this.brush, 0, 2 * Math.PI);
      context.fill();
    },
    clear() {
      this.$refs.stroke.getContext("2d").clearRect(0, 0, this.width, this.height);
    },
    key(event) {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const at = this.cursor || { row: this.height >> 1, column: this.width >> 1 };
      if (event.key in steps) {
        const [down, right] = steps[event.key];
        this.point({
          row: Math.min(this.height - 1, Math.max(0, at.row + down)),
          column: Math.min(this.width - 1, Math.max(0, at.column + right)),
        });
      } else if (event.key === "Enter" || event.key === " ") {
        this.point(at);
        if (this.brush) this.$emit("paint", { points: [[at.row, at.column]] });
        else this.$emit("pick", at);
      } else {
        return;
      }
      event.preventDefault();
    },
  },
};
