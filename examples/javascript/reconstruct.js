// Reconstructs a PNG on a server of lemmse:
//
//     npm ci
//     node reconstruct.js 127.0.0.1:50051 noisy.png clean.png 0.1
//
// The last argument is the standard deviation of the noise, where white is 1; without it, it is estimated.
// Clients are made from the .proto files when the program starts; nothing is generated.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { decode, encode } from "fast-png";
import protobuf from "protobufjs";

const PROTOS = fileURLToPath(new URL("../../protos", import.meta.url));
const PART = 1 << 20; // bytes of a tensor in one message, of which a server takes 4 MiB
const TIMEOUT = 600_000; // milliseconds

const { lemmse } = grpc.loadPackageDefinition(
  protoLoader.loadSync("lemmse/v1/reconstruction.proto", {
    includeDirs: [PROTOS],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
);

// The error of an image in a stream: google.rpc.Status, of which code and message are read.
const Status = protobuf
  .parse('syntax = "proto3"; message Status { int32 code = 1; string message = 2; }')
  .root.lookupType("Status");

// Returns the answer of the server to an image: Float32Arrays of the image and the requested maps by name, and
// the diagnostics. `request` has the other fields of ReconstructRequest.
async function reconstruct(client, pixels, shape, request) {
  const call = client.ReconstructStream({ deadline: Date.now() + TIMEOUT });
  const bytes = Buffer.from(pixels.buffer);
  const y = { dtype: "DATA_TYPE_FLOAT32", shape, data: bytes.subarray(0, PART) };
  call.write({ item: 1, request: { ...request, y } });
  for (let start = PART; start < bytes.length; start += PART) {
    call.write({ item: 1, chunk: { field: "y", data: bytes.subarray(start, start + PART) } });
  }
  call.end();

  let response;
  const received = {}; // the parts of each tensor
  for await (const part of call) {
    if (part.part === "error") {
      throw new Error(Status.decode(part.error).message);
    } else if (part.part === "response") {
      response = part.response;
      for (const [name, value] of Object.entries(response)) {
        if (value?.shape) received[name] = [value.data];
      }
    } else {
      received[part.chunk.field].push(part.chunk.data);
    }
  }
  const answer = { diagnostics: response.diagnostics };
  for (const [name, parts] of Object.entries(received)) {
    answer[name] = new Float32Array(new Uint8Array(Buffer.concat(parts)).buffer);
  }
  return answer;
}

// Returns the pixels of a PNG as floats from black, 0, to white, 1, without its transparency.
function readPixels(path) {
  const { width, height, depth, channels, palette, data } = decode(readFileSync(path));
  if (depth < 8 || palette) throw new Error(`${path}: expected 8 or 16 bits and no palette`);
  const colours = channels < 3 ? 1 : 3;
  const pixels = new Float32Array(width * height * colours);
  for (let i = 0; i < pixels.length; i++) {
    const pixel = Math.floor(i / colours);
    pixels[i] = data[pixel * channels + (i % colours)] / (2 ** depth - 1);
  }
  return { pixels, shape: [height, width, colours], depth };
}

function writePixels(path, pixels, [height, width, channels], depth) {
  const white = 2 ** depth - 1;
  const rounded = pixels.map((value) => Math.round(Math.min(Math.max(value, 0), 1) * white));
  const data = depth === 8 ? Uint8Array.from(rounded) : Uint16Array.from(rounded);
  writeFileSync(path, encode({ width, height, channels, depth, data }));
}

async function main([server, input, output, sigma]) {
  if (!output) throw new Error("usage: node reconstruct.js SERVER INPUT.png OUTPUT.png [SIGMA]");
  const { pixels, shape, depth } = readPixels(input);
  const client = new lemmse.v1.ReconstructionService(server, grpc.credentials.createInsecure());
  try {
    const noise = sigma === undefined ? { auto: {} } : { sigma: Number(sigma) };
    const { image, ess, diagnostics } = await reconstruct(client, pixels, shape, {
      ...noise,
      maps: ["MAP_ESS"],
    });
    writePixels(output, image, shape, depth);
    const mean = ess.reduce((sum, value) => sum + value, 0) / ess.length;
    console.log(
      `${output}: ${diagnostics.mode} on ${diagnostics.index}, ${mean.toFixed(1)} effective patches per pixel`,
    );
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.details || error.message); // gRPC has its message in details
  process.exitCode = 1;
});
