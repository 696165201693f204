// The function that is measured: small enough that the platform is what the clock sees.
let invocations = 0;

export const handler = async (event) => {
  // The count tells the bench whether this was the instance's first invocation.
  invocations += 1;
  return { greeting: "Hello, " + event.name, invocations };
};
