/** What the timeline's modules pass around; nothing of it is loaded by the page. */

export interface Item {
  /** pixel frame of its first picture; negative counts from the end */
  at: number;
  /** a file in ComfyUI's input folder */
  media?: string;
  /** or the number of a connected picture, from 1 */
  input?: number;
  /** first frame of the clip, and the one after the last; null is its end */
  take?: [number, number | null];
  /** noise multiplier, one for each latent frame, or a ramp "0 to 0.5" */
  noise?: number | number[] | string;
  behaviour?: "evolve" | "hold";
}

/** Where an item lies: its latent frames with their noise, its pixel frame, and how many frames it takes. */
export interface Place {
  item: Item;
  first: number;
  count: number;
  frames: number;
  frame: number;
  noise: number[];
  /** whether it lies in the video at all */
  fits: boolean;
}

/** (sampler sigma, frame sigma), from 0 to 1, neither falling. */
export type Knots = [number, number][];

/** A latent frame that does not simply follow the sampler; without an item where connected keyframes gave it. */
export interface Frame {
  knots: Knots;
  hold?: boolean;
  item?: Item;
}

/** As the nodes behind have it: each frame's own grid, the sigma where the experts switch, and the frames of a second. */
export interface Sampling {
  sigmas: number[];
  /** of every frame, and evaluations by which each block of latent frames begins after the one before; 0 is together */
  steps: number;
  ar_step: number;
  causal_block_size: number;
  /** of a rolling window, in which frames that are given are clean; 0 is none */
  moving_frames: number;
  boundary: number | null;
  fps: number;
}

/** What is drawn. */
export interface View extends Sampling {
  /** visible pixels, and the pixels left of them */
  width: number;
  scroll: number;
  /** left edges of the latent frames, and the last one's right edge */
  edges: number[];
  frames: (Frame | null)[];
  selected: Item | null;
  ghost: { first: number; count: number; text: string } | null;
}

/** What the timeline asks of its node. */
export interface Host {
  length(): number;
  sampling(): Sampling;
  /** connected pictures */
  inputs(): { input: number; picture?: string }[];
  /** latent frames that connected keyframes give */
  connected(): [string, Knots][];
  /** tells the page that the value changed */
  commit(): void;
  /** sets widgets of a node of that type behind, if there is one */
  set(type: string, values: Record<string, number>): object | undefined;
  /** what the node keeps: `pusa_fold` */
  settings(): Record<string, unknown>;
}

/** What the pointer does between down and up: `move` shows, and says whether it goes on without the pointer; in the end
 * `item` has changed, if there is one. */
export interface Gesture {
  move(at: { x: number; y: number; latent: number }): boolean | void;
  item?: Item;
}
