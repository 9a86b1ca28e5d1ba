// Not every machine resolves the names below localhost; agents of a test have such names.
import dns from 'node:dns';

const real = dns.lookup;
dns.lookup = (host, options, callback) => {
  const place = host.endsWith('.localhost') ? '127.0.0.1' : host;
  return typeof options === 'function' ? real(place, options) : real(place, options, callback);
};
