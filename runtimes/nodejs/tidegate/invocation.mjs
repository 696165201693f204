// One invocation: the handler's three ways to answer (promise, callback, context), of which the first one counts.

/** Calls the handler and turns its way of answering into one `succeed` or `fail`. */
export class Invocation {
  #header;
  #report;
  #alone;
  #decided = false;
  #context;
  // What to do once the function has nothing left to wait for; a handler that never answers has answered null.
  #whenLoopIsEmpty = () => this.#succeed(null);

  /**
   * `header` is the INVOKE frame's; `report` is told the one result: `succeed(Buffer)` or `fail(whatever)`. An answer by
   * callback waits for an empty event loop only if the invocation is `alone`.
   */
  constructor(header, report, alone) {
    this.#header = header;
    this.#report = report;
    this.#alone = alone;
  }

  get id() {
    return this.#header.id;
  }

  /** Runs `handler(event, context, callback)`; `event` is JSON in a Buffer. Does not throw. */
  run(handler, event) {
    try {
      this.#context = this.#newContext();
      const result = handler(JSON.parse(event.toString("utf8")), this.#context, (error, value) =>
        this.#callback(error, value),
      );
      if (typeof result?.then === "function") {
        result.then(
          (value) => this.#once(() => this.#succeed(value)),
          (error) => this.#once(() => this.#fail(error)),
        );
      }
    } catch (error) {
      this.#once(() => this.#fail(error));
    }
  }

  /** Node.js has run out of things to wait for. */
  loopIsEmpty() {
    const act = this.#whenLoopIsEmpty;
    this.#whenLoopIsEmpty = () => {};
    this.#decided = true;
    act();
  }

  #callback(error, value) {
    this.#once(() => {
      if (error !== undefined && error !== null) {
        this.#fail(error);
      } else if (this.#alone && this.#context.callbackWaitsForEmptyEventLoop) {
        this.#whenLoopIsEmpty = () => this.#succeed(value);
      } else {
        this.#succeed(value);
      }
    });
  }

  // Lambda ignores every answer after the first.
  #once(act) {
    if (!this.#decided) {
      this.#decided = true;
      act();
    }
  }

  #succeed(value) {
    let json;
    try {
      json = JSON.stringify(value) ?? "null";
    } catch {
      this.#fail(new Error("Unable to stringify response body"));
      return;
    }
    this.#report.succeed(Buffer.from(json));
  }

  #fail(error) {
    this.#report.fail(error ?? "handled");
  }

  #newContext() {
    const { id, arn, deadline_ms, client_context, cognito } = this.#header;
    const environment = process.env;
    return {
      callbackWaitsForEmptyEventLoop: true,
      succeed: (value) => this.#once(() => this.#succeed(value)),
      fail: (error) => this.#once(() => this.#fail(error)),
      done: (error, value) =>
        this.#once(() => (error === undefined || error === null ? this.#succeed(value) : this.#fail(error))),
      functionVersion: environment.AWS_LAMBDA_FUNCTION_VERSION,
      functionName: environment.AWS_LAMBDA_FUNCTION_NAME,
      memoryLimitInMB: environment.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
      logGroupName: environment.AWS_LAMBDA_LOG_GROUP_NAME,
      logStreamName: environment.AWS_LAMBDA_LOG_STREAM_NAME,
      clientContext: parsedHeader(client_context, "ClientContext"),
      identity: parsedHeader(cognito, "CognitoIdentity"),
      invokedFunctionArn: arn,
      awsRequestId: id,
      getRemainingTimeInMillis: () => deadline_ms - Date.now(),
    };
  }
}

function parsedHeader(json, name) {
  if (json === undefined || json === null) {
    return undefined;
  }
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new Error(`Cannot parse ${name} as json: ${error}`);
  }
}
