// The life of a Node.js instance: Init loads the handler, then one invocation after the other until the channel closes.

import { Channel, Kind, MalformedFrame } from "./channel.mjs";
import { logFailure, makeStreamsBlocking, patchConsole, setRequestId, writeLine } from "./console.mjs";
import { errorObject, UnhandledPromiseRejection } from "./errors.mjs";
import { loadHandler } from "./handler.mjs";
import { Invocation } from "./invocation.mjs";

// Lambda's limit for an answer, 6 MiB and a little for its envelope.
const RESPONSE_BYTES_MAX = 6_291_556;

// In the header of a frame, which is short; the error object has the whole type.
const ERROR_TYPE_CHARS_MAX = 256;

// Exit statuses of Lambda's runtime after a failure that left the process in an unknown state.
const EXIT_REJECTION = 128;
const EXIT_EXCEPTION = 129;
const EXIT_BROKEN = 1;

/** Runs the instance; returns when the first invocation may come. `bootstrapUrl` is the entry point's own URL. */
export async function start(bootstrapUrl) {
  patchConsole();
  makeStreamsBlocking();
  await new Instance().init(bootstrapUrl);
}

class Instance {
  #channel = new Channel();
  #handler;
  #invocation;
  #crashed = false;

  async init(bootstrapUrl) {
    process.on("uncaughtException", (error) => this.#crash("Uncaught Exception", error, EXIT_EXCEPTION));
    process.on("unhandledRejection", (reason, promise) => {
      const error = new UnhandledPromiseRejection(reason, promise);
      this.#crash("Unhandled Promise Rejection", error, EXIT_REJECTION);
    });
    process.on("beforeExit", () => this.#invocation?.loopIsEmpty());
    try {
      this.#handler = await loadHandler(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER, bootstrapUrl);
    } catch (error) {
      this.#crash("Uncaught Exception", error, EXIT_EXCEPTION);
      return;
    }
    this.#channel.send(Kind.READY, {}, Buffer.alloc(0));
    // Only now: a module that waits for ever must not be kept alive by the channel, but exit as under plain node.
    this.#channel.listen({
      onFrame: (kind, header, body) => this.#invoke(kind, header, body),
      onMalformed: (error) => exitBroken(error),
      onClosed: (error) => (error ? exitBroken(error) : process.exit(0)),
    });
  }

  #invoke(kind, header, event) {
    if (kind !== Kind.INVOKE || this.#invocation !== undefined) {
      throw new MalformedFrame(`unexpected kind ${kind}`);
    }
    if (typeof header.id !== "string" || typeof header.deadline_ms !== "number") {
      throw new MalformedFrame("INVOKE without id or deadline");
    }
    setRequestId(header.id);
    if (header.trace_id) {
      process.env._X_AMZN_TRACE_ID = header.trace_id;
    } else {
      delete process.env._X_AMZN_TRACE_ID;
    }
    this.#channel.keepAlive(false);
    const invocation = new Invocation(header, {
      succeed: (answer) => this.#finish(invocation, Kind.RESPONSE, { id: header.id }, answer),
      fail: (error) => {
        logFailure("Invoke Error", error);
        this.#finish(invocation, Kind.ERROR, { id: header.id }, errorObject(error));
      },
    });
    this.#invocation = invocation;
    // Not in this stack: an exception of the handler's must not pass through the code that reads frames.
    setImmediate(() => invocation.run(this.#handler, event));
  }

  /** Sends the answer: JSON in a Buffer, or an error object. */
  #finish(invocation, kind, header, answer) {
    if (this.#invocation !== invocation) {
      return;
    }
    this.#invocation = undefined;
    this.#channel.keepAlive(true);
    this.#send(kind, header, answer);
  }

  #send(kind, header, answer, sent) {
    if (kind !== Kind.RESPONSE) {
      header.type = headerType(answer.errorType);
      answer = Buffer.from(JSON.stringify(answer));
    }
    if (answer.length > RESPONSE_BYTES_MAX) {
      kind = kind === Kind.INIT_ERROR ? kind : Kind.ERROR;
      header.type = "Function.ResponseSizeTooLarge";
      const errorMessage = `Response payload size exceeded maximum allowed payload size (${RESPONSE_BYTES_MAX} bytes).`;
      answer = Buffer.from(JSON.stringify({ errorType: header.type, errorMessage }));
    }
    this.#channel.send(kind, header, answer, sent);
  }

  /** Reports a failure outside any call that could report it, and exits: the process is in an unknown state. */
  #crash(title, error, status) {
    logFailure(title, error);
    if (this.#crashed) {
      return;
    }
    this.#crashed = true;
    const invocation = this.#invocation;
    this.#invocation = undefined;
    if (this.#handler === undefined) {
      this.#send(Kind.INIT_ERROR, {}, errorObject(error), () => process.exit(EXIT_BROKEN));
    } else if (invocation !== undefined) {
      this.#send(Kind.ERROR, { id: invocation.id, exiting: true }, errorObject(error), () => process.exit(status));
    } else {
      process.exit(status);
    }
  }
}

// An error's name is whatever user code made of it; the header must hold text that has a UTF-8 form.
function headerType(errorType) {
  return String(errorType ?? "").slice(0, ERROR_TYPE_CHARS_MAX).replace(/\p{Surrogate}/gu, "\ufffd");
}

function exitBroken(error) {
  // Without the daemon nobody hears an answer; its log may still be read.
  writeLine(`tidegate: the channel to the platform failed: ${error.message}`);
  process.exit(EXIT_BROKEN);
}
