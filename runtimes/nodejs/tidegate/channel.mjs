// The frames between daemon and guest on the inherited socket; the protocol is in runtimes/README.md.

import { Socket } from "node:net";

export const FD = 3;

export const Kind = Object.freeze({ INVOKE: 1, READY: 2, RESPONSE: 3, ERROR: 4, INIT_ERROR: 5, ASSIGN: 6, LOG: 7 });

// A payload of 6 MiB, a client context and a header; anything longer is not from our daemon.
const FRAME_BYTES_MAX = 8 * 1024 * 1024;

const LENGTH_BYTES = 4;
// After the length: the kind and the length of the header.
const PREFIX_REST_BYTES = 5;
export const PREFIX_BYTES = LENGTH_BYTES + PREFIX_REST_BYTES;

/** The guest's end of the channel. */
export class Channel {
  #socket;
  #frame = Buffer.alloc(0);
  #filled_bytes = 0;
  #onFrame;
  #onMalformed;

  /** Takes hold of the socket. Until `listen` nothing is delivered, and the process does not stay alive for it. */
  constructor() {
    this.#socket = new Socket({ fd: FD, readable: true, writable: true });
    this.#socket.unref();
  }

  /**
   * Starts to read. Calls `onFrame(kind, header, body)` per frame (an object and a Buffer), `onMalformed(Error)` once
   * when the bytes make no sense, `onClosed(Error or undefined)` when the daemon is gone.
   */
  listen({ onFrame, onMalformed, onClosed }) {
    this.#onFrame = onFrame;
    this.#onMalformed = onMalformed;
    this.#socket.ref();
    this.#socket.on("data", (chunk) => this.#take(chunk));
    this.#socket.on("error", onClosed);
    this.#socket.on("end", () => onClosed());
  }

  /** Sends a frame; `header` is an object, `body` a Buffer; `sent` is called when the kernel has all of it. */
  send(kind, header, body, sent) {
    const headerBytes = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.allocUnsafe(PREFIX_BYTES);
    prefix.writeUInt32LE(PREFIX_REST_BYTES + headerBytes.length + body.length, 0);
    prefix.writeUInt8(kind, LENGTH_BYTES);
    prefix.writeUInt32LE(headerBytes.length, LENGTH_BYTES + 1);
    this.#socket.write(Buffer.concat([prefix, headerBytes, body]), sent);
  }

  /** Says whether an open channel is a reason for the process to stay alive: when idle yes, in an invocation no. */
  keepAlive(yes) {
    yes ? this.#socket.ref() : this.#socket.unref();
  }

  #take(chunk) {
    try {
      this.#grow(chunk);
      while (this.#filled_bytes >= PREFIX_BYTES && this.#filled_bytes >= this.#frameBytes()) {
        this.#deliver(this.#frameBytes());
      }
    } catch (error) {
      if (!(error instanceof MalformedFrame)) {
        throw error;
      }
      this.#socket.pause();
      this.#onMalformed(error);
    }
  }

  // Most frames arrive as one chunk and are used where they lie; a long one is gathered in a buffer of its length.
  #grow(chunk) {
    if (this.#filled_bytes === 0) {
      this.#frame = chunk;
    } else {
      const needed = this.#filled_bytes + chunk.length;
      if (needed > this.#frame.length) {
        const wanted = this.#filled_bytes >= PREFIX_BYTES ? this.#frameBytes() : needed;
        const larger = Buffer.allocUnsafe(Math.max(needed, wanted));
        this.#frame.copy(larger, 0, 0, this.#filled_bytes);
        this.#frame = larger;
      }
      chunk.copy(this.#frame, this.#filled_bytes);
    }
    this.#filled_bytes += chunk.length;
  }

  #frameBytes() {
    const rest = this.#frame.readUInt32LE(0);
    if (rest < PREFIX_REST_BYTES || rest > FRAME_BYTES_MAX) {
      throw new MalformedFrame(`bad length ${rest}`);
    }
    return LENGTH_BYTES + rest;
  }

  #deliver(frameBytes) {
    const frame = this.#frame.subarray(0, frameBytes);
    const rest = this.#frame.subarray(frameBytes, this.#filled_bytes);
    this.#frame = rest;
    this.#filled_bytes = rest.length;
    const { kind, header, body } = parsedFrame(frame);
    this.#onFrame(kind, header, body);
  }
}

/** The parts of a whole frame. */
export function parsedFrame(frame) {
  const headerBytes = frame.readUInt32LE(LENGTH_BYTES + 1);
  if (headerBytes > frame.length - PREFIX_BYTES) {
    throw new MalformedFrame(`bad header length ${headerBytes}`);
  }
  const bodyAt = PREFIX_BYTES + headerBytes;
  return {
    kind: frame[LENGTH_BYTES],
    header: parsedHeader(frame.subarray(PREFIX_BYTES, bodyAt)),
    body: frame.subarray(bodyAt),
  };
}

/** What came over the channel is not what the protocol allows: nothing after it can be trusted. */
export class MalformedFrame extends Error {}

function parsedHeader(bytes) {
  let header;
  try {
    header = JSON.parse(bytes.toString("utf8"));
  } catch {
    throw new MalformedFrame("the header is not JSON");
  }
  if (header === null || typeof header !== "object" || Array.isArray(header)) {
    throw new MalformedFrame("the header is not an object");
  }
  return header;
}
