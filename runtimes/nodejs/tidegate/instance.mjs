// The life of a Node.js instance: Init loads the handler, then one invocation after the other until the channel closes.

import { Channel, Kind, MalformedFrame } from "./channel.mjs";
import {
  logFailure,
  makeStreamsBlocking,
  patchConsole,
  setRequestId,
  tellInvocationsApart,
  writeLine,
} from "./console.mjs";
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
  // Under way, by request id.
  #invocations = new Map();
  #slots = Math.max(1, Number.parseInt(process.env.AWS_LAMBDA_MAX_CONCURRENCY ?? "1", 10) || 1);
  // Runs a function in the asynchronous context of a request id.
  #runAs = (_id, run) => run();
  #crashed = false;

  async init(bootstrapUrl) {
    if (this.#slots > 1) {
      await this.#tellInvocationsApart();
    }
    process.on("uncaughtException", (error) => this.#crash("Uncaught Exception", error, EXIT_EXCEPTION));
    process.on("unhandledRejection", (reason, promise) => {
      const error = new UnhandledPromiseRejection(reason, promise);
      this.#crash("Unhandled Promise Rejection", error, EXIT_REJECTION);
    });
    process.on("beforeExit", () => {
      for (const invocation of [...this.#invocations.values()]) {
        invocation.loopIsEmpty();
      }
    });
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

  async #tellInvocationsApart() {
    const { AsyncLocalStorage } = await import("node:async_hooks");
    const storage = new AsyncLocalStorage();
    this.#runAs = (id, run) => storage.run(id, run);
    tellInvocationsApart(storage, (id, octets) => {
      // After the answer the daemon knows the id no longer; the line goes to the log all the same.
      this.#channel.send(Kind.LOG, { id }, octets);
    });
  }

  #invoke(kind, header, event) {
    if (kind !== Kind.INVOKE || this.#invocations.size >= this.#slots || this.#invocations.has(header.id)) {
      throw new MalformedFrame(`unexpected kind ${kind}`);
    }
    if (typeof header.id !== "string" || typeof header.deadline_ms !== "number") {
      throw new MalformedFrame("INVOKE without id or deadline");
    }
    if (this.#slots === 1) {
      setRequestId(header.id);
      setTraceId(header.trace_id);
    }
    // With several, one may wait for another that is still to come: an empty event loop says nothing then.
    this.#channel.keepAlive(this.#slots > 1);
    const report = {
      succeed: (answer) => this.#finish(invocation, Kind.RESPONSE, { id: header.id }, answer),
      fail: (error) => {
        this.#runAs(header.id, () => logFailure("Invoke Error", error));
        this.#finish(invocation, Kind.ERROR, { id: header.id }, errorObject(error));
      },
    };
    // With others under way the event loop may never be empty.
    const invocation = new Invocation(header, report, this.#slots === 1);
    this.#invocations.set(header.id, invocation);
    // Not in this stack: an exception of the handler's must not pass through the code that reads frames.
    setImmediate(() => this.#runAs(header.id, () => invocation.run(this.#handler, event)));
  }

  /** Sends the answer: JSON in a Buffer, or an error object. */
  #finish(invocation, kind, header, answer) {
    if (this.#invocations.get(invocation.id) !== invocation) {
      return;
    }
    this.#invocations.delete(invocation.id);
    this.#channel.keepAlive(this.#slots > 1 || this.#invocations.size === 0);
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
    const ids = [...this.#invocations.keys()];
    this.#invocations.clear();
    const exit = () => process.exit(status);
    if (this.#handler === undefined) {
      this.#send(Kind.INIT_ERROR, {}, errorObject(error), () => process.exit(EXIT_BROKEN));
    } else if (ids.length === 0) {
      exit();
    } else {
      // Nobody can say whose it was: all invocations end with the process.
      for (const [index, id] of ids.entries()) {
        this.#send(Kind.ERROR, { id, exiting: true }, errorObject(error), index === ids.length - 1 ? exit : undefined);
      }
    }
  }
}

function setTraceId(traceId) {
  if (traceId) {
    process.env._X_AMZN_TRACE_ID = traceId;
  } else {
    delete process.env._X_AMZN_TRACE_ID;
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
