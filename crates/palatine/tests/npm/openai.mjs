// One question to an agent by OpenAI's own client: arguments are its base URL and its token.
import OpenAI from 'openai';

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'is anybody there?' }];
const whole = await client.chat.completions.create({ model: 'default', messages });
let streamed = '';
for await (const chunk of await client.chat.completions.create({ model: 'default', messages, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? '';
}
const models = [];
for await (const model of client.models.list()) models.push(model.id);
console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed, models }));
