// Reconstructs the active image or stack of ImageJ or Fiji, or its selection, with the command lemmse, on a server.

lemmse = "lemmse"; // with its folder, if ImageJ does not find it: what `which lemmse` prints
server = "127.0.0.1:50051";
sigma = "auto"; // or the standard deviation of the noise as a text, such as "0.05", where white is 1

title = getTitle();
input = getDirectory("temp") + "lemmse-noisy.tif";
output = getDirectory("temp") + "lemmse-clean.tif";
if (File.exists(output)) deleted = File.delete(output); // of an earlier run
if (Stack.isHyperstack) run("Duplicate...", "title=noisy duplicate");
else run("Duplicate...", "title=noisy duplicate range=1-" + nSlices);
saveAs("Tiff", input);
close();

exec(lemmse, "reconstruct", input, "--out", output, "--server", server, "--sigma", sigma);
if (!File.exists(output))
    exit("Nothing was written; a terminal shows why:\n" + lemmse + " reconstruct " + input + " --out " + output
        + " --server " + server + " --sigma " + sigma);
open(output);
rename(title + " (lemmse)");
