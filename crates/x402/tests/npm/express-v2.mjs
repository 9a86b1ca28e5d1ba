// @x402/express as its README has it: sells /paid, settles by a facilitator.
import { HTTPFacilitatorClient } from '@x402/core/server';
import { ExactEvmScheme } from '@x402/evm/exact/server';
import { paymentMiddleware, x402ResourceServer } from '@x402/express';
import express from 'express';

const [facilitator, asset, payTo, amount, name] = process.argv.slice(2);
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitator }));
server.register('eip155:338', new ExactEvmScheme());
const price = { asset, amount, extra: { name, version: '1' } };
const app = express();
app.use(
  paymentMiddleware(
    { 'GET /paid': { accepts: [{ scheme: 'exact', price, network: 'eip155:338', payTo }], description: 'theirs' } },
    server,
  ),
);
app.get('/paid', (_request, response) => response.send('their answer'));
const listener = app.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${listener.address().port}`));
