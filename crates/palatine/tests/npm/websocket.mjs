// A page's WebSocket to a private agent, by the browsers' own interface: arguments are its URL and the agent's token.
import { WebSocket } from 'undici';

const [url, token] = process.argv.slice(2);
const socket = new WebSocket(url, [`palatine.token.${token}`]);
socket.onerror = (event) => {
  console.error(event.message ?? 'the socket failed');
  process.exit(1);
};
socket.onopen = () => socket.send('is anybody there?');
socket.onmessage = ({ data }) => {
  console.log(JSON.stringify({ data, protocol: socket.protocol }));
  process.exit(0);
};
