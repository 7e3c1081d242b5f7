// What the pages say, in English and in French.

const ENGLISH = {
  newConversation: "New conversation",
  startWith: "Start with",
  yourQuestion: "Your question",
  backToChat: "Conversation",
  postsLikeThis: "Posts like this",
  greeting: (name) => `Ask ${name}`,
  lead: (posts) => `Answers from ${posts} posts of this platform, with the posts beside them.`,
  placeholder: (name) => `Ask ${name} what people say…`,
  suggestion: (topic) => `What do people say about ${topic}?`,
  hint: (name) => `${name} can be wrong. Open the posts it cites.`,
  send: "Send",
  stop: "Stop",
  answering: (name) => `${name} is answering`,
  answered: (sources) => (sources === 1 ? "Answered with 1 source" : `Answered with ${sources} sources`),
  cited: "Cited",
  found: (number) => (number === 1 ? "1 post found" : `${number} posts found`),
  alsoFound: (number) => (number === 1 ? "1 more post found" : `${number} more posts found`),
  unsupported: "No post supports this answer.",
  unsupportedMark: "does not say this",
  stopped: "Stopped.",
  copy: "Copy",
  copied: "Copied",
  regenerate: "Answer again",
  retry: "Try again",
  source: (number) => `Source ${number}`,
  openPost: "Open post",
  close: "Close",
  askAbout: "Ask about this",
  post: (id) => `Post ${id}`,
  by: (author) => `by ${author}`,
  noPost: "There is no such post. It may have been deleted.",
  unreachable: "The server does not answer. Is it still running?",
  key: "This server asks for an API key:",
  edit: "Edit question",
  up: "Good answer",
  down: "Bad answer",
  thanks: "Thank you: kept for the assistant’s next lesson.",
  consent: "May this question and answer be kept, without personal data, to teach the assistant?",
  agree: "Yes, keep them",
  decline: "No",
  why: "What is wrong with it?",
  reasons: { wrong: "Not true", unsupported: "The posts do not say it", rude: "Rude", unsafe: "Unsafe", other: "Something else" },
};

const FRENCH = {
  newConversation: "Nouvelle conversation",
  startWith: "Pour commencer",
  yourQuestion: "Votre question",
  backToChat: "Conversation",
  postsLikeThis: "Messages semblables",
  greeting: (name) => `Demandez à ${name}`,
  lead: (posts) => `Des réponses tirées de ${posts} messages de cette plateforme, avec les messages à côté.`,
  placeholder: (name) => `Demandez à ${name} ce qui se dit…`,
  suggestion: (topic) => `Que dit-on sur « ${topic} » ?`,
  hint: (name) => `${name} peut se tromper. Ouvrez les messages cités.`,
  send: "Envoyer",
  stop: "Arrêter",
  answering: (name) => `${name} répond`,
  answered: (sources) => (sources > 1 ? `Réponse avec ${sources} sources` : `Réponse avec ${sources} source`),
  cited: "Cités",
  found: (number) => (number > 1 ? `${number} messages trouvés` : "1 message trouvé"),
  alsoFound: (number) => (number > 1 ? `${number} autres messages trouvés` : "1 autre message trouvé"),
  unsupported: "Aucun message n’appuie cette réponse.",
  unsupportedMark: "ne dit pas cela",
  stopped: "Arrêté.",
  copy: "Copier",
  copied: "Copié",
  regenerate: "Répondre à nouveau",
  retry: "Réessayer",
  source: (number) => `Source ${number}`,
  openPost: "Ouvrir le message",
  close: "Fermer",
  askAbout: "Poser une question",
  post: (id) => `Message ${id}`,
  by: (author) => `de ${author}`,
  noPost: "Ce message n’existe pas. Il a peut-être été supprimé.",
  unreachable: "Le serveur ne répond pas. Tourne-t-il encore ?",
  key: "Ce serveur demande une clé d’API :",
  edit: "Modifier la question",
  up: "Bonne réponse",
  down: "Mauvaise réponse",
  thanks: "Merci : gardé pour la prochaine leçon de l’assistant.",
  consent: "Cette question et cette réponse peuvent-elles être gardées, sans données personnelles, pour instruire l’assistant ?",
  agree: "Oui, les garder",
  decline: "Non",
  why: "Qu’est-ce qui ne va pas ?",
  reasons: { wrong: "C’est faux", unsupported: "Les messages ne le disent pas", rude: "Impoli", unsafe: "Dangereux", other: "Autre chose" },
};

export const language = navigator.language.toLowerCase().startsWith("fr") ? "fr" : "en";
export const say = language === "fr" ? FRENCH : ENGLISH;

// Fill every element that names its text.
export function fillIn() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say[element.dataset.text];
}

const locale = navigator.language.toLowerCase().startsWith(language) ? navigator.language : language;

export const count = (number) => number.toLocaleString(locale);

export const day = (iso) => new Date(iso).toLocaleDateString(locale, { dateStyle: "long" });
