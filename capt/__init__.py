"""capt: what both programs share: images, captions, references, vocabulary, the network and its checkpoint."""
