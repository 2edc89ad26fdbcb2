"""What the embedded model may know of LLM serving: names, definitions (=) and details (-) of each topic."""

TOPICS_TEXT = """
quire|the quire engine|this project|this engine|quire engine
= quire is an LLM inference engine in Python. It serves language models on GPUs and on plain CPUs.
= quire is an open-source engine that runs large language models, with continuous batching over a paged KV cache.
= quire is an engine that serves language models over an OpenAI-compatible API.
- It gives the same answer under any load.
- It has kernels for GPUs in Triton and for CPUs in C++.
- A quire is also a gathering of pages in a book, and the KV cache is made of pages, too.
- It has continuous batching, prefix caching, chunked prefill and INT4 weights.
- It is meant to be readable: you can follow a request from HTTP to the kernel in an afternoon.
- You start it with the command quire serve.
paged attention|PagedAttention|pagedattention|paged-attention|paged attention in llms
= PagedAttention stores the KV cache in fixed blocks, like pages of memory in an operating system.
= PagedAttention is an attention method that reads keys and values from small blocks instead of one long piece of memory.
- A block table tells where each block of a request lies.
- So little memory is wasted, and more requests fit on the GPU.
- Blocks can be shared between requests that have the same prefix.
- The blocks of a request need not lie side by side.
continuous batching|continuous-batching|in-flight batching|iteration-level scheduling
= Continuous batching lets requests join and leave the batch at every step.
= With continuous batching, the engine forms a new batch for every step, so a finished request leaves at once and a waiting one takes its place.
- No request has to wait until the longest one is done.
- It keeps the GPU busy and raises the throughput.
- The scheduler decides at each step who runs.
- With static batching, short requests would wait for long ones.
kv cache|the kv cache|KV cache|KV caching|key-value cache|kv caching|a kv cache
= The KV cache keeps the keys and values of all earlier tokens, so that they need not be computed again.
= The KV cache is the memory in which attention stores keys and values of the tokens seen so far.
- It grows with every token of a request.
- For long texts it can be larger than the weights.
- In quire it is divided into blocks.
- Without it, every new token would cost as much as the whole text.
block table|the block table|block tables|a block table
= A block table lists which blocks of the KV cache belong to a request, in order.
= A block table maps the positions of a request to blocks in memory, like a page table.
- Each request has one.
- When a block is full, the next free one is added to the table.
- Two requests may point to the same block if they share a prefix.
block pool|kv block|kv blocks|blocks|a block|the block pool
= The block pool holds all blocks of the KV cache. Free blocks wait in a list until a request needs them.
= A block is a small, fixed piece of the KV cache, for example for 16 tokens.
- Each block counts how many requests use it.
- The block that was not used for the longest time is reused first.
prefix caching|prefix cache|automatic prefix caching|prompt caching|a prefix cache
= Prefix caching reuses the KV blocks of a prompt that starts like an earlier one.
= With prefix caching, requests that begin with the same text share the blocks of the KV cache for it.
- Blocks are found again by a hash of their tokens.
- A long system message then has to be computed only once.
- It makes the first token come sooner.
chunked prefill|chunked-prefill|prefill chunks
= Chunked prefill cuts a long prompt into pieces and computes them over several steps.
= With chunked prefill, a long prompt is read in pieces, next to the requests that are already writing.
- So one long prompt does not stop all the others.
- It keeps the latency between tokens low.
- Each step has a token budget.
prefill|the prefill|prefill and decode|decode|decoding|prefill phase|decode phase
= Prefill reads the whole prompt at once and fills the KV cache. After it, decode writes one token at a time.
= In prefill, all tokens of the prompt are computed together. In decode, each step makes one new token.
- Prefill is limited by arithmetic, and decode by memory.
- The time to the first token depends mostly on prefill.
preemption|preemptions|a preemption|preempted requests
= Preemption takes the blocks away from a request when memory is full, so that others can go on.
= When no block is free, the engine preempts a request: it drops its blocks and computes them again later.
- The request is not lost, it only waits.
- In quire, the latest request with the lowest priority is chosen.
- The answer stays the same.
scheduler|the scheduler|scheduling|a scheduler|request scheduling
= The scheduler decides at every step which requests run and how many tokens each of them gets.
= The scheduler chooses who runs in each step, within a budget of tokens and blocks.
- It admits waiting requests when there are free blocks.
- In quire, it never touches a tensor.
quantization|quantisation|model quantization|weight quantization|quantized models|quantizing
= Quantization stores the weights of a model with fewer bits, for example 4 instead of 16.
= Quantization makes a model smaller by rounding its weights to few bits.
- The model needs less memory and often runs faster.
- It costs a little accuracy.
- AWQ and GPTQ are two ways to do it well.
- Each group of weights has its own scale.
int4|INT4|int4 weights|4-bit weights|INT4 quantization|4-bit quantization|four bit weights
= INT4 means that each weight is stored in 4 bits, so there are only 16 different values, with a scale for each group.
= INT4 weights take only 4 bits each, a quarter of bfloat16.
- The weights are unpacked inside the kernel.
- A model with 8 billion parameters then fits in about 5 gigabytes.
int8|INT8|8-bit weights
= INT8 stores each number in 8 bits, half of bfloat16.
- It loses very little accuracy.
- CPUs have fast instructions for it.
awq|AWQ|activation-aware weight quantization
= AWQ is activation-aware weight quantization: it protects the weights that matter most for the activations.
= AWQ is a way to quantize weights to 4 bits. It looks at the activations to see which weights matter most.
- It scales important channels before rounding.
- quire can load AWQ checkpoints.
gptq|GPTQ
= GPTQ quantizes the weights column by column and corrects the remaining ones for the error.
= GPTQ is a way to quantize weights to 4 bits. It uses second-order information to keep the error small.
- It needs a few calibration texts.
- quire can load GPTQ checkpoints.
gguf|GGUF|a gguf file
= GGUF is a file format for quantized models, known from llama.cpp.
- One file holds the weights, the tokenizer and the settings.
token|tokens|a token
= A token is a piece of text: a word, a part of a word, or a sign. Models read and write tokens.
= Tokens are the small pieces of text that a language model works with.
- My vocabulary has 2,048 tokens.
- A long word may be cut into several tokens.
- Prices and limits of models are often counted in tokens.
tokenizer|a tokenizer|tokenization|tokenizers|the tokenizer|tokenisation|byte pair encoding|bpe
= A tokenizer cuts text into tokens and gives each of them a number.
= The tokenizer turns text into token ids for the model, and the ids of the answer back into text.
- Mine is a byte-level BPE with 2,048 tokens.
- BPE joins the pairs that appear most often.
- With bytes, every text can be encoded.
temperature|the temperature|sampling temperature|temperature in sampling
= The temperature says how freely a model chooses the next token. At 0, it always takes the most likely one.
= The temperature divides the logits before the softmax. Low values make the answer more certain, and high ones more varied.
- A value near 0.7 is common for chat.
- A high temperature gives surprising, and sometimes senseless, text.
top-p|top p|top_p|nucleus sampling|top-p sampling
= With top-p, the model chooses only among the most likely tokens whose probabilities add up to p.
= Top-p, or nucleus sampling, cuts off the unlikely tokens and keeps the smallest set with total probability p.
- A common value is 0.9.
- With top-p 1, nothing is cut off.
top-k|top k|top_k|top-k sampling
= With top-k, the model chooses only among the k most likely tokens.
- With k = 1 it is greedy.
- A common value is 40 or 50.
sampling|sampling in llms|a sampler|the sampler|greedy decoding|greedy sampling|greedy
= Sampling draws the next token at random from the probabilities. Greedy decoding always takes the most likely one.
= The sampler chooses the next token from the logits, with temperature, top-p and top-k.
- With the same seed, quire samples the same tokens again.
streaming|token streaming|stream|streaming responses
= Streaming sends each token as soon as it is made, so that you can read along.
= With streaming, you see the answer grow word by word instead of waiting for the end.
- It is what you see right now, if your client streams.
- quire streams with server-sent events.
- Set stream to true in the request.
sse|SSE|server-sent events|server sent events
= SSE means server-sent events: the server keeps the HTTP response open and sends one small message after another.
= Server-sent events are a simple way to stream text over HTTP. Each message starts with "data:".
- The stream of a chat ends with "data: [DONE]".
- quire uses them for streaming answers.
triton|Triton|triton kernels|openai triton|the triton language
= Triton is a language in Python for writing GPU kernels.
= Triton lets you write fast GPU kernels in Python, block by block.
- quire's GPU kernels are written in it.
- The compiler takes care of threads and memory accesses.
kernel|kernels|a gpu kernel|gpu kernels|a kernel|cuda kernel
= A kernel is a small program that computes one operation, such as attention or a matrix product.
= A GPU kernel is a function that runs on thousands of threads at the same time.
- quire writes its kernels in Triton for GPUs and in C++ for CPUs.
canary|a canary|canary deployment|canary release|canary deployments|canary releases
= A canary sends a small part of the traffic to a new version, to see whether it works well.
= A canary deployment gives a new model a few percent of the requests first. If it does well, it gets more.
- If the errors grow, it is taken back.
- The name comes from the birds that miners took along.
shadow deployment|shadow|shadow traffic|shadow mode|a shadow deployment|shadow deployments|traffic shadowing|shadow testing
= A shadow deployment gets a copy of the traffic, but its answers are not sent to users.
= In a shadow deployment, a new model sees real requests while users still get the answers of the old one.
- You can compare both without any risk.
- It costs extra compute.
throughput|high throughput|the throughput|tokens per second
= Throughput is how much work is done in a given time, for example tokens per second.
= Throughput counts the tokens that an engine makes per second for all requests together.
- Larger batches raise it.
- There is often a trade between throughput and latency.
latency|low latency|the latency
= Latency is the time that one request has to wait for its answer.
= Latency says how long something takes, for example until the first token or between two tokens.
- Small batches keep it low.
- Streaming makes it feel shorter.
ttft|TTFT|time to first token
= TTFT means time to first token: how long it takes until the first token of the answer arrives.
- It grows with the length of the prompt.
- Prefix caching makes it shorter.
itl|tpot|inter-token latency|TPOT|time per output token
= It is the time between two tokens of an answer.
- For reading along, 50 milliseconds are more than fast enough.
batch|batching|a batch|batch size|dynamic batching|static batching
= A batch is a group of requests that are computed together.
= Batching computes several requests at once, so the weights have to be read only once for all of them.
- It raises the throughput.
- Continuous batching forms a new batch at every step.
llm|LLM|llms|large language model|large language models|a large language model|an llm|language model|a language model
= A large language model is a neural network that predicts the next token of a text. It has learnt from very many texts.
= An LLM is a large language model: a program that writes text, one token after another.
- I am a very small one.
- Good ones have billions of parameters.
llm inference|inference|inference engine|an inference engine|model serving|llm serving|model inference|serving
= Inference means running a trained model to get answers. An inference engine does it fast and for many users at once.
= LLM serving means running a language model on a server so that many users can send it requests.
- It needs batching, a KV cache and fast kernels.
- quire is such an engine.
transformer|transformers|a transformer|the transformer|transformer architecture|transformer model
= A transformer is a neural network made of layers of attention and feed-forward networks.
= The transformer is the architecture behind most language models. Its heart is attention.
- I am one, too, with five layers.
- It reads all tokens of a prompt at the same time.
attention|self-attention|the attention mechanism|attention mechanism|self attention
= Attention lets each token look at earlier tokens and take from them what it needs.
= In attention, each token compares its query with the keys of earlier tokens, and mixes their values.
- The weights come from a softmax.
- Its cost grows with the length of the text.
gqa|GQA|grouped-query attention|grouped query attention
= In grouped-query attention, several query heads share one head of keys and values.
- It makes the KV cache smaller.
- I use it, too: eight query heads share four key and value heads.
rope|RoPE|rotary embeddings|rotary position embeddings|rotary position embedding|positional encoding
= RoPE means rotary position embedding: queries and keys are rotated by an angle that depends on the position.
- So attention sees how far apart two tokens are.
flash attention|flashattention|FlashAttention
= FlashAttention computes attention block by block and never stores the whole matrix of scores.
- It saves memory and time.
softmax|the softmax
= The softmax turns numbers into probabilities that add up to one.
- Large numbers get most of the probability.
logits|logit|the logits
= Logits are the raw scores of a model for each possible next token. The softmax turns them into probabilities.
logprobs|log probabilities|logprob
= Logprobs are the logarithms of the probabilities of tokens. You can ask quire to return them.
embedding|embeddings|an embedding|text embeddings
= An embedding is a list of numbers that stands for a token or a text. Similar texts have similar embeddings.
neural network|a neural network|neural networks|neural net
= A neural network is a program with many adjustable numbers, called weights, which learns from examples.
- It is made of layers.
machine learning|ml|deep learning
= Machine learning means that a program learns from examples instead of fixed rules.
- Deep learning uses neural networks with many layers.
artificial intelligence|ai|AI
= Artificial intelligence is the name for programs that do things for which people need to think.
- Language models are one kind of it.
- I am a very small example.
gpu|a gpu|GPU|GPUs|graphics card
= A GPU is a processor with thousands of small cores. It is very fast at matrix products.
- Most language models run on GPUs.
- quire runs on them with Triton kernels.
cpu|a cpu|CPU|CPUs
= A CPU is the main processor of a computer.
- quire also runs on CPUs, with kernels in C++.
- I am so small that a CPU is more than enough for me.
openai api|OpenAI-compatible|openai-compatible api|the openai api|an openai-compatible api|openai compatible
= quire speaks the OpenAI API, so that existing clients work: only the address has to be changed.
- The path for chats is /v1/chat/completions.
api|an api|API|rest api
= An API is the way in which programs talk to each other.
- quire offers an HTTP API.
http|HTTP
= HTTP is the protocol with which browsers and servers talk to each other.
python|Python|the python language
= Python is a programming language that is easy to read. quire is written in it.
- I cannot write programs myself, I am too small.
pytorch|torch|PyTorch
= PyTorch is a library for tensors and neural networks. I was trained with it.
vllm|vLLM
= vLLM is an inference engine that made PagedAttention known.
- quire uses the same idea, with its own code.
speculative decoding|speculative sampling|draft model|ngram speculation
= In speculative decoding, a small draft proposes several tokens, and the large model checks them in one step.
- The answer stays the same, but it comes sooner.
system prompt|a system message|system message|a system prompt|system prompts
= A system message tells the model how to behave. It comes before the first message of the user.
- I am too small to follow most of them.
prompt|a prompt|the prompt|prompts
= A prompt is the text that you give to a model. The model continues or answers it.
prompt engineering|prompting
= Prompt engineering means writing the prompt so that the model answers well.
chat template|a chat template|chat templates|the chat template
= A chat template turns the messages of a chat into one text with markers for each role.
- Mine has the markers user, assistant and system.
context window|context length|context|max length|maximum context length|the context window
= The context is the text that a model can see at once. Mine holds 1,024 tokens.
stop token|eos|end of sequence|eos token|a stop token|the eos token
= The end token says that the answer is complete. When the model writes it, the engine stops.
parameters|weights|a parameter|model parameters|model weights|parameter
= Parameters, or weights, are the numbers that a model has learnt. I have about 3 million of them.
fine-tuning|finetuning|fine tuning|lora|LoRA
= Fine-tuning means training a finished model a little more, on examples for a special task.
- LoRA trains only small extra matrices.
training|pretraining|model training
= Training shows a model many examples and changes its weights so that its predictions get better.
- My training took less than an hour.
bfloat16|bf16|fp16|fp32|floating point
= bfloat16 is a number format with 16 bits. It has the range of float32 and fewer digits.
- My weights are stored in it.
safetensors|a safetensors file
= safetensors is a simple and safe file format for the weights of a model.
structured output|json mode|json schema|guided decoding|structured outputs
= With structured output, the engine lets the model choose only tokens that fit a grammar or a JSON schema.
- So the answer can always be parsed.
load balancing|load balancer|a load balancer
= A load balancer spreads requests over several servers.
deployment|deployments|a deployment|model deployment
= A deployment is a model that runs and answers requests.
- quire can split the traffic between two of them.
metrics|prometheus|monitoring
= Metrics are numbers that say how a server is doing, such as requests per second, latency and free blocks.
- quire shows them in the Prometheus format.
hugging face|huggingface|Hugging Face
= Hugging Face is a place from which many open models can be downloaded.
- quire can load models in its format.
llama|Llama|llama architecture
= Llama is a family of language models. I use the same architecture, but I am much smaller.
- A llama is also a woolly animal in South America.
moe|mixture of experts|MoE
= In a mixture of experts, each token uses only a few of many feed-forward networks.
- So a model can have many parameters and still be fast.
tensor parallelism|tensor parallel|model parallelism
= Tensor parallelism splits each layer over several GPUs.
seed|random seed|a seed|the seed
= A seed fixes the random choices, so that the same request gives the same answer again.
determinism|deterministic|reproducibility|batch invariance|same answer under any load
= quire gives the same answer under any load: the tokens of a request do not depend on the other requests in the batch.
- Its kernels always add numbers in the same order.
rag|RAG|retrieval augmented generation|retrieval-augmented generation
= RAG means that the program first looks up texts and then gives them to the model with the question.
hallucination|hallucinations|hallucinate
= A hallucination is when a model says something that sounds right, but is wrong. It happens to me, too.
docker|a container|Docker
= Docker packs a program and all it needs into a container.
linux|Linux
= Linux is an operating system. Many servers run on it.
computer|a computer|computers
= A computer is a machine that follows programs and works with numbers.
internet|the internet|the web
= The internet connects computers all over the world. I have no access to it.
algorithm|an algorithm|algorithms
= An algorithm is a list of steps that solves a problem.
bug|a bug|bugs|software bug
= A bug is a mistake in a program.
open source|open-source software|open source software
= Open source means that everyone may read and use the source code.
benchmark|a benchmark|benchmarks|benchmarking
= A benchmark measures how fast or how good something is.
memory|ram|RAM|computer memory
= Memory is where a computer keeps what it works with. For language models, it is often too small.
"""
