// Greets, and says which instance did it.

let invocations = 0;

export const handler = async (event, context) => {
  invocations += 1;
  const name = event.name ?? "world";
  console.log("greeting", name);
  return {
    message: `${process.env.GREETING ?? "Hello"}, ${name}!`,
    function: context.functionName,
    invocations_of_this_instance: invocations,
  };
};
