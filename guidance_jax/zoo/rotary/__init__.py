"""Transformers with rotary positions that read text and proteins: Qwen2, Qwen3, Llama and LLaDA, ModernBERT, ESM."""
