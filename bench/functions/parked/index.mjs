// A function whose invocations wait, many in one instance.
export const handler = (event) => new Promise((resolve) => setTimeout(resolve, event.seconds * 1000, "done"));
