// What a function may look like, for rehearsals.

export const handler = async (event) => ({ event, length: JSON.stringify(event).length });
