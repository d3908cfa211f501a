/** Convergence for any page; docs/javascript.md has examples. Nothing of it is global. */

/** Where a pipe leads: "hash:TEXT", "tcp://HOST:PORT" through an exit, or a private service's address. */
export type Address = string;

export interface JoinOptions {
  /** The root hash of the version to run, 64 hex digits. Without it, whatever the mirror has is run. */
  root?: string;
  /** Folders that have the files, tried in turn; by default, the one that this module came from. */
  mirrors?: Iterable<string | URL>;
  /** What network.json says, if the mirrors are not to say it; `url` is what its paths are relative to. */
  network?: { facilitator: { identity: string; path: string }; rtc?: { stun: string[] }; url?: string };
  /** Whether this browser also passes on traffic of others; by default, it does not. */
  relay?: boolean;
  /** Hops of circuits to services, 1 to 5; 2 by default. */
  hops?: number;
  /** Gives up, until the promise is settled. */
  signal?: AbortSignal;
}

/** Rejects with a ConvergenceError when this browser cannot run a node, or anything is not as the root hash says. */
export function join(options?: JoinOptions): Promise<Node>;

export interface NodeEventMap {
  /** Circuits stand. */
  ready: Event;
  /** `nodes` changed. */
  nodes: Event;
  /** Something is wrong; the node goes on trying. */
  trouble: CustomEvent<ConvergenceError>;
}

export interface ConnectOptions {
  /** Gives up: before the pipe is open, and after that both ways of it. */
  signal?: AbortSignal;
  /** Pipes share circuits only where this is equal. */
  isolation?: string;
  /** Seconds, 0 or more, in which it is no final answer that nobody offers a service; 10 by default. */
  patience?: number;
}

export interface ServeOptions {
  /** Ends the service and its pipes. */
  signal?: AbortSignal;
}

/** A node of the network in a worker of this page. It ends with the page. */
export interface Node extends EventTarget {
  /** How many nodes of the network are known. */
  readonly nodes: number;
  /** Resolves once circuits stand. `connect` and `serve` wait for it themselves. */
  readonly ready: Promise<void>;
  /** Resolves after `close`; rejects with a ConvergenceError when the node failed. */
  readonly closed: Promise<void>;
  /** Resolves once the far end has accepted. Rejects with a ConvergenceError, or with the signal's reason. */
  connect(address: Address, options?: ConnectOptions): Promise<Pipe>;
  /**
   * Offers a service until it is closed; resolves once it can be found.
   * @param service "hash:TEXT", or the 32 secret bytes of a private service's owner.
   * @param handler Is called with each pipe. When it throws, the far end hears EndReason.INTERNAL.
   */
  serve(
    service: Address | { secret: Uint8Array },
    handler: (pipe: Pipe) => unknown,
    options?: ServeOptions,
  ): Promise<Service>;
  /** Leaves the network: all pipes fail with the code "closed". */
  close(): Promise<void>;
  addEventListener<K extends keyof NodeEventMap>(
    type: K,
    listener: (event: NodeEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof NodeEventMap>(
    type: K,
    listener: (event: NodeEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** Bytes both ways. Each way ends by itself; a side that does not read stops the one that writes. */
export interface Pipe {
  /** A byte stream. `cancel`: what still comes is dropped. */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** `close` ends our way; `abort` gives up both, and the far end hears the reason: an EndReason, or an error with one. */
  readonly writable: WritableStream<BufferSource>;
  /**
   * Resolves when both ways have ended and what was written has arrived, as far as the node can tell; rejects when the
   * pipe was given up, by whomever.
   */
  readonly closed: Promise<void>;
}

export interface Service {
  /** What others connect to. */
  readonly address: Address;
  /** Withdraws it and ends its pipes. */
  close(): void;
}

/** `code` is for programs (docs/javascript.md lists them), `message` for people. */
export class ConvergenceError extends Error {
  constructor(code: string, message: string, reason?: number);
  readonly code: string;
  /** An EndReason, or another number as received, where a pipe was given up with one. */
  readonly reason: number | undefined;
}

/** Why a pipe ends, as numbers that travel (Tor's, tor-spec "Closing streams"). */
export const EndReason: {
  readonly MISC: 1;
  readonly RESOLVEFAILED: 2;
  readonly CONNECTREFUSED: 3;
  readonly EXITPOLICY: 4;
  readonly DESTROY: 5;
  readonly DONE: 6;
  readonly TIMEOUT: 7;
  readonly NOROUTE: 8;
  readonly HIBERNATING: 9;
  readonly INTERNAL: 10;
  readonly RESOURCELIMIT: 11;
  readonly CONNRESET: 12;
  readonly TORPROTOCOL: 13;
  readonly NOTDIRECTORY: 14;
};
