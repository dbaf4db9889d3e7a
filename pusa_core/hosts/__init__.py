"""Hosts: the programs that Pusa runs in. Each has a folder here, and touches its host nowhere else.

A host moves tensors; it holds no mathematics. To write another one, have it do this:

1. Check: refuse what cannot take a timestep for every latent frame (`pusa_core.capabilities`), samplers that cannot follow
   a plan that is not `is_straight`, and tensor parallelism that would mix up the frames.
2. Encode: give `plan_clip` a function from images (N, H, W, 3) to clean latents, and get a `Plan`.
3. Start: `table = plan.table`; put `clean` where `plan.keyframed`, and pass noise and content through
   `table.at(sigma).start`. From here on the sampler's latent is the virtual one.
4. Evaluate: `at = table.at(sigma, sigmas)`; show the model `at.to_frame(virtual, clean)` with timestep t * `at.ratio` for
   every latent frame; hand the sampler `at.denoised` or `at.velocity` of what the model says.
5. End, and preview: `table.at(sigma_end).to_frame(virtual, clean)`; pinned frames are `clean` at sigma 0.
6. LoRA: `read_lora`, `fit` against the model's shapes, and hand `state_dict()` to the host's own loader.

`tests/comfy/test_rule.py` has an independent implementation to compare with.
"""
